"""What a parser says. Adding up the events of a text gives its reasoning, content and calls."""

import msgspec


class ContentDelta(msgspec.Struct, frozen=True):
    text: str


class ReasoningDelta(msgspec.Struct, frozen=True):
    text: str


class ToolCallStart(msgspec.Struct, frozen=True):
    index: int
    id: str
    name: str


class ToolArgumentsDelta(msgspec.Struct, frozen=True):
    index: int
    text: str


class ToolCallEnd(msgspec.Struct, frozen=True):
    """`complete` is False for a call that broke, or was cut off, after it had been announced."""

    index: int
    complete: bool


Event = ContentDelta | ReasoningDelta | ToolCallStart | ToolArgumentsDelta | ToolCallEnd
