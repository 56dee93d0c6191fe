"""The seam that the server sees, and the two classes behind it."""

from collections.abc import Callable
from typing import Protocol

from kvasir.parsers.events import ContentDelta, Event
from kvasir.parsers.output import Output
from kvasir.parsers.reader import Reader, Steps


class Parser(Protocol):
    """Reads one answer. However the text is cut, the events add up to the same."""

    def push(self, text: str) -> list[Event]:
        """What is certain now."""

    def finish(self) -> list[Event]:
        """What was held back, now that nothing follows."""


Format = Callable[[Reader, Output], Steps[None]]
"""Reads a text from its first character to its last and says what it is."""


class FormatParser:
    """Runs a format as far as the text has come."""

    def __init__(self, read: Format, output: Output | None = None):
        self._reader = Reader()
        self._output = output or Output()
        self._steps = read(self._reader, self._output)

    def push(self, text: str) -> list[Event]:
        self._reader.add(text)
        next(self._steps, None)
        return self._output.take()

    def finish(self) -> list[Event]:
        self._reader.end()
        next(self._steps, None)
        self._output.close()
        return self._output.take()


class ReasoningThenCalls:
    """Calls are looked for in what the reasoning parser calls content."""

    def __init__(self, reasoning: Parser, calls: Parser):
        self._reasoning, self._calls = reasoning, calls

    def push(self, text: str) -> list[Event]:
        return self._pass_on(self._reasoning.push(text))

    def finish(self) -> list[Event]:
        return self._pass_on(self._reasoning.finish()) + self._calls.finish()

    def _pass_on(self, events: list[Event]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            out += self._calls.push(event.text) if isinstance(event, ContentDelta) else [event]
        return out
