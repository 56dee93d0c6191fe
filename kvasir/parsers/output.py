"""Collects the events of one parser and keeps the rules that all formats share."""

import uuid
from collections.abc import Callable

from kvasir.parsers.events import (
    ContentDelta,
    Event,
    ReasoningDelta,
    ToolArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
)
from kvasir.parsers.reader import SPACES


def call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


class Output:
    """Neighbouring events of a kind become one.

    Spaces next to calls belong to the calls' markup: content does not begin or end with them where it borders on one.
    Without a call, content is the text, letter for letter.
    """

    def __init__(self, make_id: Callable[[], str] = call_id):
        self._make_id = make_id
        self._events: list[Event] = []
        self._spaces = ""
        self._has_content = False
        self._num_calls = 0
        self.in_call = False

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def content(self, text: str) -> None:
        body = text.rstrip(SPACES)
        if not body:
            self._spaces += text
            return
        if self._num_calls and not self._has_content:
            body, self._spaces = body.lstrip(SPACES), ""
        self._has_content = True
        text, self._spaces = self._spaces + body, text[len(text.rstrip(SPACES)) :]
        last = self._events[-1] if self._events else None
        if isinstance(last, ContentDelta):
            self._events[-1] = ContentDelta(last.text + text)
        else:
            self._events.append(ContentDelta(text))

    def reasoning(self, text: str) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, ReasoningDelta):
            self._events[-1] = ReasoningDelta(last.text + text)
        elif text:
            self._events.append(ReasoningDelta(text))

    def start(self, name: str, id: str | None = None) -> None:
        self._events.append(ToolCallStart(self._num_calls, id or self._make_id(), name))
        self._num_calls += 1
        self.in_call = True

    def arguments(self, text: str) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(last, ToolArgumentsDelta):
            self._events[-1] = ToolArgumentsDelta(last.index, last.text + text)
        elif text:
            self._events.append(ToolArgumentsDelta(self._num_calls - 1, text))

    def end(self, complete: bool = True) -> None:
        self._events.append(ToolCallEnd(self._num_calls - 1, complete))
        self.in_call = False

    def close(self) -> None:
        """The text is over."""
        if self.in_call:
            self.end(complete=False)
        if self._spaces and not self._num_calls:
            self._events.append(ContentDelta(self._spaces))
            self._spaces = ""
