"""The raw material of the training text: words, names and facts.

Payload words (the words that are reversed, sorted, counted ...) are kept out of
the tokenizer's vocabulary on purpose, so that the model sees their letters.
"""

from __future__ import annotations

import random

COMMON_WORDS: tuple[str, ...] = tuple(
    """
able acorn actor album amber angle ankle apple apron arrow autumn badge baker banana barrel basket
beach bean bear bell berry bike bird blanket blossom boat bottle bowl branch brave bread breeze brick
bridge broom brush bubble bucket butter button cabin cactus cake camel camera candle canyon carpet
carrot castle cattle cave cedar chair chalk cheese cherry circle cliff cloak cloud clover coast cobalt
coconut coffee comet copper coral corner cotton cradle crane crayon cricket crown crystal cup dancer
dawn deer desert dinner dolphin donkey door dragon dream drum eagle ear earth elbow ember engine
evening fabric falcon farmer feather fence fern field finger fire flag flame flute fog forest fork
fox frost fruit galaxy garden garlic gate ginger giraffe glacier glove goat gold grape grass gravel
guitar hammer harbor harp hawk hazel helmet heron hill honey hood horse ice igloo ink iron island
ivory jacket jar jasmine jelly jewel jungle kettle kitchen kite kitten ladder lake lamp lantern laptop
leaf lemon library lily lion lizard lobster lunar magnet mango maple marble market meadow melon mirror
mitten monkey moon moss moth mountain mouse museum mushroom napkin needle nest noodle oak oasis ocean
olive onion orange orchard otter owl oyster paddle palace panda paper parade parrot peach peanut pear
pebble pencil penguin pepper piano pigeon pillow pine planet plum pocket pony potato puddle pumpkin
puppy puzzle quartz quilt rabbit radio rain raven ribbon rice river robin rocket roof rose ruby saddle
salad sand scarf school scissors seed shadow shark sheep shell ship shoe silver skate sky snail snow
soap spider spoon spring squirrel star stone storm strawberry street sugar summer sun swan table
teapot temple tent thunder tiger tomato tower train tree trumpet tulip tunnel turtle umbrella valley
vase velvet violet violin wagon walnut water whale wheat wheel willow window winter wizard wolf wood
yacht yarn zebra mississippi bookkeeper committee balloon coffee success pepper lettuce cabbage
""".split()
)

FIRST_NAMES: tuple[str, ...] = tuple(
    """
Anna Bert Clara David Emma Felix Greta Hugo Ida Jonas Karin Lena Maria Nils Olga Peter Rosa Simon Tina
Ulla Vera Walter Yara Zoe Alice Bob Carol Dan Eve Frank Grace Henry Ivan Julia Kim Leo Mia Noah Oscar
Paula Quinn Ruth Sam Tom Ursula Victor Wendy Xenia Yusuf Zara Aisha Bruno Chen Diego Elif Fatima Goran
Hana Ines Jamal Kofi Lucia Marco Nadia Omar Priya Rafael Sofia Tariq Ada Alan Linus Marie Otto Pia
""".split()
)

COLORS: tuple[str, ...] = tuple("red blue green yellow purple orange pink black white brown gray teal".split())

CAPITALS: dict[str, str] = dict(
    pair.split(":")
    for pair in """
France:Paris Germany:Berlin Italy:Rome Spain:Madrid Portugal:Lisbon Norway:Oslo Sweden:Stockholm
Denmark:Copenhagen Finland:Helsinki Iceland:Reykjavik Ireland:Dublin Poland:Warsaw Austria:Vienna
Hungary:Budapest Greece:Athens Turkey:Ankara Russia:Moscow Ukraine:Kyiv Romania:Bucharest
Bulgaria:Sofia Croatia:Zagreb Serbia:Belgrade Belgium:Brussels Netherlands:Amsterdam
Switzerland:Bern Estonia:Tallinn Latvia:Riga Lithuania:Vilnius Slovenia:Ljubljana Albania:Tirana
Japan:Tokyo China:Beijing India:Delhi Thailand:Bangkok Vietnam:Hanoi Indonesia:Jakarta
Philippines:Manila Iran:Tehran Iraq:Baghdad Israel:Jerusalem Jordan:Amman Lebanon:Beirut
Syria:Damascus Nepal:Kathmandu Pakistan:Islamabad Bangladesh:Dhaka Mongolia:Ulaanbaatar
Egypt:Cairo Kenya:Nairobi Ghana:Accra Nigeria:Abuja Senegal:Dakar Morocco:Rabat Tunisia:Tunis
Ethiopia:Addis Uganda:Kampala Rwanda:Kigali Angola:Luanda Cuba:Havana Canada:Ottawa Peru:Lima
Chile:Santiago Ecuador:Quito Colombia:Bogota Venezuela:Caracas Australia:Canberra
""".split()
)
del CAPITALS["Ethiopia"]  # a capital of two words would need its own rule

_ONSETS = "b c d f g h j k l m n p r s t v w z br cl dr fl gr pl st tr sh ch".split()
_VOWELS = "a e i o u a e i o u ee oo".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "t", "m", "k"]


def invented_word(rng: random.Random, low: int = 3, high: int = 10) -> str:
    """A pronounceable word, or sometimes a plain random string, of ``low`` to ``high`` letters."""
    length = rng.randint(low, high)
    if rng.random() < 0.35:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=length))
    word = ""
    while len(word) < length:
        word += rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS)
    return word[:length]


def payload_word(rng: random.Random, low: int = 3, high: int = 10) -> str:
    """A word to work on: a third of them are real, the rest invented."""
    if rng.random() < 0.35:
        word = rng.choice(COMMON_WORDS)
        if low <= len(word) <= high:
            return word
    return invented_word(rng, low, high)


def person_name(rng: random.Random) -> str:
    """A first name; half of them invented so that names are copied, not recalled."""
    if rng.random() < 0.5:
        return rng.choice(FIRST_NAMES)
    return invented_word(rng, 3, 7).capitalize()


def place_name(rng: random.Random) -> str:
    """A city name; some of them invented."""
    if rng.random() < 0.6:
        return rng.choice(_CITIES)
    return invented_word(rng, 4, 8).capitalize()


_CITIES = tuple(CAPITALS.values())
