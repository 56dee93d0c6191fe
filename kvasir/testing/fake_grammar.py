"""FakeBackend: grammars without a library. They allow every token, and what they are told can be looked at."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kvasir.structured.backend import GrammarError
from kvasir.structured.formats import Format, Regex


@dataclass
class FakeAutomaton:
    eos_id: int
    forbidden: int | None = None
    tokens: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def num_consumed(self) -> int:
        return len(self.tokens)

    def advance(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            if token_id == self.forbidden:
                raise GrammarError(f"token {token_id} is forbidden")
            self.tokens.append(token_id)
            self.ended = self.ended or token_id == self.eos_id


@dataclass
class FakeGrammar:
    pattern: str
    eos_id: int
    automata: list[FakeAutomaton]

    def start(self) -> FakeAutomaton:
        forbidden = int(self.pattern.removeprefix("not ")) if self.pattern.startswith("not ") else None
        self.automata.append(FakeAutomaton(self.eos_id, forbidden))
        return self.automata[-1]


class FakeBackend:
    """A `kvasir.structured.backend.Backend`. What a pattern says is done.

    `wrong` does not compile, `slow` waits for the event, `not N` fails at token N, `broken` cannot be filled.
    """

    def __init__(self, vocab_size: int, eos_id: int = -1):
        self.slow = threading.Event()
        self.compiled: list[str] = []
        self.automata: list[FakeAutomaton] = []
        self._mask = bytearray(b"\xff") * (-(-vocab_size // 32) * 4)
        self._eos_id = eos_id
        self._broken = False

    def compile(self, fmt: Format) -> FakeGrammar:
        assert isinstance(fmt, Regex)
        self.compiled.append(fmt.pattern)
        if fmt.pattern == "wrong":
            raise GrammarError("wrong is wrong")
        if fmt.pattern == "slow":
            self.slow.wait(30)
        self._broken = self._broken or fmt.pattern == "broken"
        return FakeGrammar(fmt.pattern, self._eos_id, self.automata)

    def fill(self, automata: Sequence[Any]) -> tuple[bytearray, list[str | None]]:
        if self._broken:
            raise ValueError("a bug")
        return self._mask * len(automata), [None] * len(automata)
