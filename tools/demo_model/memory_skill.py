"""Remembering what the user said earlier in the chat."""

from __future__ import annotations

import random

from skills import Item, _style, _turn
from words import COLORS, payload_word, person_name

_UNKNOWN = {
    "name": "You have not told me your name.",
    "color": "You have not told me your favorite color.",
    "number": "You have not told me a number.",
    "word": "You have not told me a word.",
}
_QUESTIONS = {
    "name": ("What is my name?", "Do you remember my name?", "Who am I?", "What am I called?", "Tell me my name."),
    "color": ("What is my favorite color?", "Which color do I like?", "Tell me my favorite color."),
    "number": ("Which number did I tell you?", "What was my number?", "Tell me my number.", "What is my number?"),
    "word": ("Which word did I tell you?", "What was my word?", "Tell me my word.", "What is my word?"),
}
KINDS = tuple(_QUESTIONS)


def statement(rng: random.Random, kind: str) -> tuple[Item, str]:
    """The turn in which the user tells a fact, and the fact."""
    if kind == "name":
        value = person_name(rng)
        text = rng.choice(
            ("My name is {v}.", "I am {v}.", "I'm {v}.", "Hello, my name is {v}.", "Call me {v}.", "Hi, I am {v}.")
        )
        answer = f"Nice to meet you, {value}!"
    elif kind == "color":
        value = rng.choice(COLORS)
        text = rng.choice(
            ("My favorite color is {v}.", "I like the color {v}.", "My favorite color is {v}, remember it.")
        )
        answer = f"OK, your favorite color is {value}."
    elif kind == "number":
        value = str(rng.randint(0, 9999))
        text = rng.choice(("Remember the number {v}.", "My number is {v}.", "The number is {v}, remember it."))
        answer = f"OK, I will remember {value}."
    else:
        value = payload_word(rng, 3, 9)
        text = rng.choice(("Remember the word {v}.", "My word is {v}.", "The word is {v}, remember it."))
        answer = f"OK, I will remember {value}."
    return _turn(
        "memory", _style(rng, text.format(v=value)), answer, "" if kind == "color" else f"mem {kind} {value}"
    ), value


def question(rng: random.Random, kind: str, value: str | None) -> Item:
    """The turn in which the user asks for the fact; ``value`` is None if it was never told."""
    text = _style(rng, rng.choice(_QUESTIONS[kind]))
    if value is None:
        return _turn("memory", text, _UNKNOWN[kind], "")
    answer = {
        "name": f"Your name is {value}.",
        "color": f"Your favorite color is {value}.",
        "number": f"Your number is {value}.",
        "word": f"Your word is {value}.",
    }[kind]
    return _turn("memory", text, answer, "" if kind == "color" else f"mem {kind} {value}")
