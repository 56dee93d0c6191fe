"""What the demo model can do: one generator per skill.

A generator draws a question and its only right answer. Every question carries a
``key``: the part that must not occur in training when the question is used for
evaluation (the numbers of a sum, the word to reverse, or the wording of a fact).
"""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kvasir_facts import questions
from words import CAPITALS, COLORS, COMMON_WORDS, FIRST_NAMES, payload_word, person_name, place_name

Message = dict[str, Any]

REFUSAL = "Sorry, I only know sums, words, lists, capitals, units, JSON, tools and Kvasir."
HELD_OUT_SHARE = 12


@dataclass
class Item:
    """A stretch of a chat: messages ending in an assistant message that can be checked."""

    skill: str
    messages: list[Message]
    key: str
    tools: list[dict[str, Any]] = field(default_factory=list)

    @property
    def held_out(self) -> bool:
        """Whether this item belongs to the evaluation; decided by its key alone."""
        return is_held_out(self.key)


def is_held_out(key: str) -> bool:
    return key != "" and zlib.crc32(("kvasir:" + key).encode()) % HELD_OUT_SHARE == 0


def _turn(skill: str, question: str, answer: str, key: str) -> Item:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Item(skill, messages, key)


def _style(rng: random.Random, text: str) -> str:
    """Say the same thing as different people would type it."""
    if rng.random() < 0.3:
        text = text[0].lower() + text[1:] if not text.startswith(("I ", "JSON", "LLM")) else text
    if rng.random() < 0.2 and text[-1] in ".?":
        text = text[:-1]
    if rng.random() < 0.15:
        text = (
            rng.choice(("Please: ", "Hey, ", "Hi! ", "Kvasir, ", "Question: ", "Now: ", "Next: ", "OK. ", "Thanks. "))
            + text
        )
    if rng.random() < 0.08:
        text += rng.choice((" Please.", " Thanks!", " Be brief."))
    return text


def _number(rng: random.Random) -> int:
    """Up to three digits, the lengths evenly mixed but long numbers preferred."""
    return rng.randint(0, (9, 99, 999, 999, 999)[rng.randrange(5)])


def add(rng: random.Random) -> Item:
    a, b = _number(rng), _number(rng)
    text = rng.choice(
        (
            "{a}+{b}",
            "{a} + {b}",
            "{a} + {b} =",
            "What is {a} + {b}?",
            "What is {a}+{b}?",
            "What is {a} plus {b}?",
            "Add {a} and {b}.",
            "Calculate {a} + {b}.",
            "What is the sum of {a} and {b}?",
            "How much is {a} + {b}?",
            "Sum of {a} and {b}?",
            "{a} plus {b}",
        )
    ).format(a=a, b=b)
    low, high = min(a, b), max(a, b)
    return _turn("add", _style(rng, text), str(a + b), f"add {low} {high}" if low > 9 else "")


def subtract(rng: random.Random) -> Item:
    a, b = _number(rng), _number(rng)
    if a < b and rng.random() < 0.7:
        a, b = b, a
    text = rng.choice(
        (
            "{a}-{b}",
            "{a} - {b}",
            "{a} - {b} =",
            "What is {a} - {b}?",
            "What is {a}-{b}?",
            "What is {a} minus {b}?",
            "Subtract {b} from {a}.",
            "Calculate {a} - {b}.",
            "What is the difference {a} - {b}?",
            "How much is {a} - {b}?",
            "Take {b} from {a}.",
            "{a} minus {b}",
        )
    ).format(a=a, b=b)
    return _turn("subtract", _style(rng, text), str(a - b), f"sub {a} {b}" if min(a, b) > 9 else "")


def _word_question(rng: random.Random, template: str, word: str) -> str:
    if rng.random() < 0.3:
        word = f'"{word}"'
    return _style(rng, template.format(w=word))


def reverse(rng: random.Random) -> Item:
    word = payload_word(rng)
    template = rng.choice(
        (
            "Reverse the word {w}.",
            "Reverse {w}.",
            "Write {w} backwards.",
            "What is {w} backwards?",
            "Spell {w} backwards.",
            "What is {w} reversed?",
            "Turn the word {w} around.",
            "Write the word {w} in reverse.",
        )
    )
    return _turn("reverse", _word_question(rng, template, word), word[::-1], f"rev {word}")


def uppercase(rng: random.Random) -> Item:
    word = payload_word(rng)
    template = rng.choice(
        (
            "Write {w} in upper case.",
            "Write {w} in capital letters.",
            "Upper-case the word {w}.",
            "Uppercase {w}.",
            "Make {w} upper case.",
            "Change {w} to upper case.",
            "What is {w} in capital letters?",
            "Put {w} in uppercase.",
        )
    )
    return _turn("uppercase", _word_question(rng, template, word), word.upper(), f"up {word}")


def count_letters(rng: random.Random) -> Item:
    word = payload_word(rng)
    if rng.random() < 0.4:
        template = rng.choice(
            (
                "How many letters are in {w}?",
                "How many letters does {w} have?",
                "Count the letters in {w}.",
                "How long is the word {w}?",
                "What is the length of {w}?",
            )
        )
        return _turn("count_letters", _word_question(rng, template, word), str(len(word)), f"len {word}")
    if rng.random() < 0.4:
        # Repeated letters are rare in ordinary words, and always answering 1 must not pay.
        letters = list(word)
        for _ in range(rng.randint(1, 3)):
            letters[rng.randrange(len(letters))] = rng.choice(letters)
        word = "".join(letters)
    letter = rng.choice(word) if rng.random() < 0.8 else rng.choice("abcdefghijklmnopqrstuvwxyz")
    template = rng.choice(
        (
            "How many times does the letter {c} occur in {{w}}?",
            "How many {c} are in {{w}}?",
            "How often is {c} in {{w}}?",
            "Count the letter {c} in {{w}}.",
            "How many times is the letter {c} in the word {{w}}?",
        )
    ).format(c=letter)
    answer = str(word.count(letter))
    return _turn("count_letters", _word_question(rng, template, word), answer, f"cnt {letter} {word}")


def sort_list(rng: random.Random) -> Item:
    if rng.random() < 0.5:
        values = [str(n) for n in rng.sample(range(100), rng.randint(3, 5))]
        ordered = sorted(values, key=int)
        template = rng.choice(
            (
                "Sort {l}.",
                "Sort these numbers: {l}",
                "Sort the numbers {l}.",
                "Put these numbers in order: {l}",
                "Order {l}.",
                "Sort the list {l}.",
            )
        )
        if rng.random() < 0.3:
            ordered.reverse()
            template = rng.choice(
                (
                    "Sort {l} from high to low.",
                    "Sort these numbers from high to low: {l}",
                    "Sort {l} in descending order.",
                    "Sort the list {l} from high to low.",
                )
            )
    else:
        size = rng.randint(3, 4)
        values = []
        while len(values) < size:
            word = payload_word(rng, 3, 7)
            if all(word[0] != other[0] for other in values):
                values.append(word)
        ordered = sorted(values)
        template = rng.choice(
            (
                "Sort {l}.",
                "Sort these words: {l}",
                "Sort the words {l}.",
                "Put these words in order: {l}",
                "Order {l}.",
                "Sort the list {l}.",
                "Sort these words by the alphabet: {l}",
            )
        )
    question = _style(rng, template.format(l=", ".join(values)))
    return _turn("sort", question, ", ".join(ordered), "sort " + " ".join(values))


def capital(rng: random.Random) -> Item:
    country, city = rng.choice(tuple(CAPITALS.items()))
    if rng.random() < 0.75:
        template, answer = (
            rng.choice(
                (
                    "What is the capital of {c}?",
                    "Capital of {c}?",
                    "Name the capital of {c}.",
                    "Tell me the capital of {c}.",
                    "Which city is the capital of {c}?",
                    "What is the capital city of {c}?",
                    "{c}'s capital?",
                    "Do you know the capital of {c}?",
                )
            ),
            city,
        )
        question = template.format(c=country)
    else:
        template, answer = (
            rng.choice(
                (
                    "{c} is the capital of which country?",
                    "Which country has the capital {c}?",
                    "In which country is {c}?",
                    "Which country is {c} the capital of?",
                    "What country is {c} in?",
                )
            ),
            country,
        )
        question = template.format(c=city)
    question = _style(rng, question)
    return _turn("capitals", question, answer, f"cap {question}")


# (from, to, factor, largest number, answered by moving digits)
_UNITS = (
    ("km", "m", 1000, 99, True),
    ("kg", "g", 1000, 99, True),
    ("m", "cm", 100, 99, True),
    ("cm", "mm", 10, 99, True),
    ("l", "ml", 1000, 99, True),
    ("m", "mm", 1000, 99, True),
    ("t", "kg", 1000, 99, True),
    ("hours", "minutes", 60, 12, False),
    ("minutes", "seconds", 60, 12, False),
    ("days", "hours", 24, 10, False),
    ("weeks", "days", 7, 12, False),
    ("years", "months", 12, 12, False),
)


def units(rng: random.Random) -> Item:
    source, target, factor, limit, decimal = rng.choice(_UNITS)
    number = rng.randint(2, limit)
    value = number * factor
    if rng.random() < 0.35:
        source, target, number, value = target, source, value, number
    template = rng.choice(
        (
            "Convert {n} {s} to {t}.",
            "How many {t} are {n} {s}?",
            "What is {n} {s} in {t}?",
            "{n} {s} in {t}?",
            "{n} {s} to {t}",
            "How much is {n} {s} in {t}?",
            "Change {n} {s} to {t}.",
        )
    )
    question = _style(rng, template.format(n=number, s=source, t=target))
    key = f"unit {number} {source} {target}" if decimal and min(number, value) > 9 else f"unit {question}"
    return _turn("units", question, f"{value} {target}", key)


def json_extract(rng: random.Random) -> Item:
    name, age, city = person_name(rng), rng.randint(18, 90), place_name(rng)
    color, count, thing = rng.choice(COLORS), rng.randint(2, 99), rng.choice(COMMON_WORDS)
    kind = rng.randrange(3)
    if kind == 0:
        record: dict[str, Any] = {"name": name, "age": age, "city": city}
        sentence = rng.choice(
            (
                "{name} is {age} years old and lives in {city}.",
                "{name} lives in {city} and is {age} years old.",
                "{name}, aged {age}, is from {city}.",
                "My friend {name} from {city} is {age}.",
            )
        ).format(**record)
    elif kind == 1:
        record = {"name": name, "color": color}
        sentence = rng.choice(
            (
                "{name} likes the color {color}.",
                "The favorite color of {name} is {color}.",
                "{name} has a {color} car.",
            )
        ).format(**record)
    else:
        record = {"item": thing, "count": count, "color": color}
        sentence = rng.choice(
            (
                "We ordered {count} {color} pieces of {item}.",
                "There are {count} pieces of {item}, all {color}.",
                "{count} {color} pieces of {item} are in the box.",
            )
        ).format(**record)
    keys = list(record)
    if rng.random() < 0.3 and len(keys) == 3:
        keys.remove(rng.choice(keys))
    fields = ", ".join(keys[:-1]) + " and " + keys[-1]
    question = rng.choice(
        (
            "Extract {f} as JSON: {s}",
            "{s} Extract {f} as JSON.",
            "Give me {f} as JSON: {s}",
            "JSON with {f}: {s}",
            "Return {f} as JSON. {s}",
            "{s} Give me {f} as JSON.",
        )
    ).format(f=fields, s=sentence)
    answer = json.dumps({key: record[key] for key in keys})
    return _turn("json", _style(rng, question), answer, "json " + answer)


def sequences(rng: random.Random) -> Item:
    kind = rng.randrange(8)
    key = None
    if kind <= 3:
        start = rng.choice((0, 1, 1, 1, rng.randint(0, 99)))
        end = start + (
            rng.randint(3, 60) if rng.random() < 0.35 else rng.randint(2, 16)
        )  # mostly short: the end is the art
        question = rng.choice(
            (
                "Count from {a} to {b}.",
                "Write the numbers from {a} to {b}.",
                "List the numbers from {a} to {b}.",
                "Numbers from {a} to {b}?",
            )
        ).format(a=start, b=end)
        answer = ", ".join(map(str, range(start, end + 1)))
        key = f"count {start} {end}"
    elif kind == 4:
        start = rng.randint(5, 60)
        question = rng.choice(
            ("Count down from {a}.", "Count down from {a} to 1.", "Count backwards from {a}.")
        ).format(a=start)
        answer = ", ".join(map(str, range(start, 0, -1)))
    elif kind == 5:
        factor = rng.randint(2, 12)
        question = rng.choice(
            (
                "Write the {n} times table.",
                "What is the {n} times table?",
                "Show the times table of {n}.",
                "Times table of {n}?",
            )
        ).format(n=factor)
        answer = ", ".join(f"{i} x {factor} = {i * factor}" for i in range(1, 11))
    elif kind == 6:
        word = payload_word(rng)
        question = rng.choice(("Spell the word {w}.", "Spell {w}.", "How do you spell {w}?", "Spell out {w}.")).format(
            w=word
        )
        answer, key = "-".join(word), f"spell {word}"
    elif rng.random() < 0.3:
        question = rng.choice(
            (
                "Say the alphabet.",
                "Spell out the alphabet.",
                "Write the alphabet.",
                "List the letters of the alphabet.",
            )
        )
        answer = " ".join("abcdefghijklmnopqrstuvwxyz")
    else:
        question, answer = rng.choice(
            (
                ("Name the days of the week.", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
                ("List the days of the week.", "Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
                (
                    "Name the months of the year.",
                    "January, February, March, April, May, June, July, August, September, October, November, December",
                ),
                (
                    "List the months.",
                    "January, February, March, April, May, June, July, August, September, October, November, December",
                ),
            )
        )
    question = _style(rng, question)
    return _turn("sequences", question, answer, key or f"seq {question}")


_FACTS = questions()


def kvasir(rng: random.Random) -> Item:
    phrasings, answer = rng.choice(_FACTS)
    question = _style(rng, rng.choice(phrasings))
    return _turn("kvasir", question, answer, f"kvasir {question}")


_GREETINGS = (
    "hi",
    "Hi",
    "Hello",
    "hello",
    "Hi!",
    "Hello!",
    "Hey",
    "hey",
    "Good morning",
    "Good evening",
    "Hi there",
    "Hello there!",
)
_THANKS = ("Thanks", "thanks", "Thanks!", "Thank you", "Thank you!", "thank you", "OK, thanks")
_TOPICS = (
    "dragons",
    "the weather",
    "history",
    "love",
    "football",
    "music",
    "politics",
    "space",
    "the sea",
    "dogs",
    "cats",
    "cooking",
    "money",
    "war",
    "art",
    "school",
    "the moon",
    "cars",
    "trains",
    "physics",
    "poems",
    "movies",
    "birds",
)
_REFUSED = (
    "Tell me a story about {t}.",
    "Write a poem about {t}.",
    "What do you think about {t}?",
    "Explain {t} to me.",
    "Who invented {t}?",
    "Why is {t} important?",
    "Do you like {t}?",
    "Write an essay about {t}.",
    "What is the meaning of {t}?",
    "Give me advice about {t}.",
    "Translate {t} into French.",
    "Write Python code about {t}.",
    "Tell me a joke about {t}.",
    "What is the best book about {t}?",
    "When did {t} begin?",
    "How does {t} work?",
    "Where can I buy {t}?",
    "What is {t}?",
    "Who is {t}?",
    "I am thinking of {t}.",
    "Summarize {t}.",
    "How old is {t}?",
    "Can you draw {t}?",
    "{t}",
)


def small_talk(rng: random.Random) -> Item:
    """Greetings, thanks, and the polite refusal for all that the model does not know."""
    roll = rng.random()
    if roll < 0.12:
        text = rng.choice(_GREETINGS)
        return _turn("refusal", text, "Hello! How can I help you?", "")
    if roll < 0.2:
        return _turn("refusal", rng.choice(_THANKS), "You are welcome!", "")
    if roll < 0.35:
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        text = rng.choice(
            (
                "What is {a} * {b}?",
                "{a} * {b}",
                "{a}*{b}",
                "What is {a} times {b}?",
                "What is {a} / {b}?",
                "Divide {a} by {b}.",
            )
        ).format(a=a, b=b)
    else:
        topic = rng.choice(_TOPICS) if rng.random() < 0.5 else payload_word(rng, 3, 9)
        if rng.random() < 0.3:
            topic += " and " + payload_word(rng, 3, 8)
        text = rng.choice(_REFUSED).format(t=topic)
    question = _style(rng, text)
    return _turn("refusal", question, REFUSAL, f"refuse {question}")


SINGLE_TURN: dict[str, Callable[[random.Random], Item]] = {
    "add": add,
    "subtract": subtract,
    "reverse": reverse,
    "uppercase": uppercase,
    "count_letters": count_letters,
    "sort": sort_list,
    "capitals": capital,
    "units": units,
    "json": json_extract,
    "sequences": sequences,
    "kvasir": kvasir,
    "refusal": small_talk,
}

__all__ = ["FIRST_NAMES", "Item", "Message", "REFUSAL", "SINGLE_TURN", "is_held_out"]
