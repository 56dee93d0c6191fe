"""Host time of grammars per step, in a vocabulary of 151,936 made-up tokens: what stands between two steps of the engine.

    python benchmarks/structured_masks.py [rows ...]

For each number of rows: the medians over 200 steps of advancing every automaton by a token and of filling every mask,
and the first-time costs: reading the vocabulary, compiling the schema.
"""

import random
import statistics
import sys
import time

from kvasir.structured.formats import JsonSchema
from kvasir.structured.guidance import GuidanceBackend
from kvasir.structured.vocabulary import Vocabulary

VOCAB = 151_936
EOS = VOCAB - 1
SCHEMA = {
    "type": "object",
    "properties": {
        "people": {
            "type": "array",
            "minItems": 50,
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "mail": {"type": "string", "pattern": "^[a-z]{3,12}@[a-z]{3,12}\\.com$"},
                    "age": {"type": "integer", "minimum": 0, "maximum": 130},
                    "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}},
                },
                "required": ["name", "mail", "age", "tags"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["people"],
}


def vocabulary() -> Vocabulary:
    """Bytes first, then random words over letters and JSON's signs, as byte-pair tokenizers have them."""
    dice = random.Random(0)
    tokens = [bytes([i]) for i in range(256)]
    seen = set(tokens)
    signs = "etaoinshrdlucmfwypvbgkjqxz" * 4 + '{}[]":, .-_@0123456789\n'
    while len(tokens) < VOCAB - 1:
        word = (" " if dice.random() < 0.4 else "") + "".join(dice.choices(signs, k=dice.randint(2, 9)))
        if word.encode() not in seen:
            seen.add(word.encode())
            tokens.append(word.encode())
    return Vocabulary([*tokens, b"<eos>"], [EOS], {}, [EOS], lambda text: list(text.encode()))


def timed(name: str, work):
    started = time.perf_counter()
    result = work()
    print(f"{name:24} {(time.perf_counter() - started) * 1e3:8.1f} ms")
    return result


def main() -> None:
    words = vocabulary()
    backend = timed("vocabulary", lambda: GuidanceBackend(words))
    grammar = timed("compile", lambda: backend.compile(JsonSchema(SCHEMA)))
    dice = random.Random(1)
    for rows in map(int, sys.argv[1:] or ("1", "16", "64", "256")):
        automata = [grammar.start() for _ in range(rows)]
        fills, advances = [], []
        for _ in range(200):
            started = time.perf_counter()
            masks, _ = backend.fill(automata)
            fills.append(time.perf_counter() - started)
            size = len(masks) // rows
            tokens = [pick(masks[i * size : (i + 1) * size], dice) for i in range(rows)]
            started = time.perf_counter()
            for automaton, token in zip(automata, tokens, strict=True):
                automaton.advance([token])
            advances.append(time.perf_counter() - started)
        per_row = (statistics.median(fills) + statistics.median(advances)) / rows
        print(
            f"{rows:4} rows: fill {statistics.median(fills) * 1e6:7.0f} us, advance "
            f"{statistics.median(advances) * 1e6:6.0f} us a step; {per_row * 1e6:5.1f} us a row; worst fill "
            f"{max(fills) * 1e6:.0f} us"
        )


def pick(mask: bytes, dice: random.Random) -> int:
    while True:
        token = dice.randrange(VOCAB)
        if mask[token >> 3] >> (token & 7) & 1:
            return token
        if dice.random() < 0.002:  # few tokens are allowed here
            return dice.choice([i for i in range(VOCAB) if mask[i >> 3] >> (i & 7) & 1])


if __name__ == "__main__":
    main()
