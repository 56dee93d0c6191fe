"""Deltas -> the parts of an answer, in the order in which the model said them.

Chat answers have one place for content and one for calls; the Responses and Messages APIs list what came after what.
However the deltas were merged, the parts are the same.
"""

from typing import Literal

import msgspec

from kvasir.entrypoints.http.deltas import Delta, TokenInfo
from kvasir.parsers import SPACES

Kind = Literal["reasoning", "text", "call"]


class Part(msgspec.Struct):
    """A thought, a text, or a call, whose `text` is its arguments. `logprobs` belong to a text's tokens."""

    index: int
    kind: Kind
    text: str = ""
    call_id: str = ""
    name: str = ""
    logprobs: list[TokenInfo] = []
    is_open: bool = True


class Change(msgspec.Struct):
    """What happened to a part; `text` and `logprobs` are what it gained."""

    what: Literal["opened", "grew", "closed"]
    part: Part
    text: str = ""
    logprobs: list[TokenInfo] = []


class Parts:
    """The parts of one choice. At most the last one is open."""

    def __init__(self) -> None:
        self.all: list[Part] = []
        self._waiting: list[TokenInfo] = []  # tokens whose text is held back, or has none

    def add(self, delta: Delta) -> list[Change]:
        changes: list[Change] = []
        self._waiting += delta.logprobs or ()
        if delta.reasoning:
            self._grow(changes, "reasoning", delta.reasoning)
        if delta.text:
            self._grow(changes, "text", delta.text)
        for call in delta.calls:
            if call.id is not None:
                self._open(changes, Part(len(self.all), "call", call_id=call.id, name=call.name or ""))
            if call.arguments:
                self._grow(changes, "call", call.arguments)
        return changes

    def close(self) -> list[Change]:
        """The answer is over."""
        changes: list[Change] = []
        if self.all and self.all[-1].is_open:
            part = self.all[-1]
            if part.kind == "text":
                part.logprobs += self._waiting
            part.is_open = False
            changes.append(Change("closed", part))
        return changes

    def _open(self, changes: list[Change], part: Part) -> None:
        changes += self.close()
        self.all.append(part)
        changes.append(Change("opened", part))

    def _grow(self, changes: list[Change], kind: Kind, text: str) -> None:
        if not self.all or not self.all[-1].is_open or self.all[-1].kind != kind:
            if kind == "text" and self.all and self.all[-1].kind == "call":
                text = text.lstrip(SPACES)  # it stands between calls and content, which here are apart
            self._open(changes, Part(len(self.all), kind))
        part, logprobs = self.all[-1], []
        part.text += text
        if kind == "text":
            logprobs, self._waiting = self._waiting, []
            part.logprobs += logprobs
        changes.append(Change("grew", part, text, logprobs))
