"""SEAM: what is asked of a grammar library. `guidance.py` is the one there is; another one would stand beside it."""

from collections.abc import Sequence
from typing import Protocol

from kvasir.structured.formats import Format


class GrammarError(Exception):
    """A grammar cannot be read, or an automaton cannot go on; the text is for the caller of the request."""


class Automaton(Protocol):
    """One answer's place in a grammar.

    Attributes:
        num_consumed: tokens of the answer that it has seen.
        ended: an end token was consumed: nothing limits what follows.
    """

    num_consumed: int
    ended: bool

    def advance(self, token_ids: Sequence[int]) -> None:
        """Consumes tokens, which must be allowed. Raises GrammarError."""


class Grammar(Protocol):
    """A grammar ready for use; may be shared by any number of answers."""

    def start(self) -> Automaton:
        """A fresh automaton; cheap."""


class Backend(Protocol):
    """A library together with a vocabulary."""

    def compile(self, fmt: Format) -> Grammar:
        """May take long, and is called from several threads. Raises GrammarError."""

    def fill(self, automata: Sequence[Automaton]) -> tuple[bytearray, list[str | None]]:
        """Masks of the automata one after the other, as in `TokenMasks.words`, and each one's error if it has one."""
