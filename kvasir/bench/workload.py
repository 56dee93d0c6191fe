"""What is asked: random tokens of a given shape, or questions the bundled model knows."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from kvasir.errors import ConfigError

_WORDS = ("river", "stone", "lamp", "winter", "cedar", "copper", "violin", "harbor", "meadow", "silver")
_CAPITALS = ("France", "Japan", "Norway", "Egypt", "Peru", "Canada", "Italy", "Kenya")


@dataclass(frozen=True)
class Ask:
    """One request: token ids (completions) or a question (chat)."""

    output_len: int
    token_ids: tuple[int, ...] = ()
    question: str = ""


def random_tokens(
    count: int,
    input_len: int,
    output_len: int,
    *,
    seed: int,
    vocab: tuple[int, int],
    spread: float = 0.0,
    prefix_len: int = 0,
) -> list[Ask]:
    """Ids drawn evenly from `vocab`.

    Args:
        spread: lengths vary evenly by this share around their value; 0.5 means half to one and a half times.
        prefix_len: first ids that all prompts share, on top of `input_len`.
    """
    low, high = vocab
    if not 0 <= low < high:
        raise ConfigError(f"the vocabulary range {low}:{high} is empty; give LOW:HIGH.")
    if not 0.0 <= spread < 1.0:
        raise ConfigError(f"--length-spread is {spread}: it must be at least 0 and below 1.")
    rng = random.Random(seed)

    def length(around: int) -> int:
        return max(1, round(around * rng.uniform(1.0 - spread, 1.0 + spread)))

    prefix = tuple(rng.randrange(low, high) for _ in range(prefix_len))
    return [
        Ask(length(output_len), prefix + tuple(rng.randrange(low, high) for _ in range(length(input_len))))
        for _ in range(count)
    ]


def demo_questions(count: int, output_len: int, *, seed: int) -> list[Ask]:
    """Short questions of the kinds `kvasir-demo` was trained on."""
    rng = random.Random(seed)
    kinds: list[Callable[[], str]] = [
        lambda: f"What is {rng.randrange(1000)} + {rng.randrange(1000)}?",
        lambda: f"What is {rng.randrange(500, 1000)} - {rng.randrange(500)}?",
        lambda: f"Reverse the word {rng.choice(_WORDS)}.",
        lambda: f"Write {rng.choice(_WORDS)} in upper case.",
        lambda: f"What is the capital of {rng.choice(_CAPITALS)}?",
    ]
    return [Ask(output_len, question=rng.choice(kinds)()) for _ in range(count)]
