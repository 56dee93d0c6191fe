"""How families write calls, as data: for whoever makes a model write one."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CallStyle:
    """One call is `open before NAME after_name ARGUMENTS after close`; its arguments are a JSON object.

    Attributes:
        before: up to the name.
        after_name: between name and arguments.
        after: what follows the arguments.
        open, close: marks around a call; a line break may stand inside them.
        numbered: a number, the call's place, stands behind the name and a colon.
        section, section_end: stand around all calls.
        separator: stands between two calls.
        trigger: in free text, this announces calls; empty when nothing does.
    """

    before: str
    after_name: str
    after: str = ""
    open: str = ""
    close: str = ""
    numbered: bool = False
    section: str = ""
    section_end: str = ""
    separator: str = ""
    trigger: str = ""


@dataclass(frozen=True)
class Frame:
    """A format in which every part of an answer has a mark: a thought may come first, then a call or the answer.

    Attributes:
        thought, thought_end: around a thought.
        answer: before the answer proper; calls have marks of their own.
    """

    thought: str
    thought_end: str
    answer: str


def json_object(arguments_key: str = "arguments", **marks: Any) -> CallStyle:
    """A call as one JSON object with a name and arguments."""
    return CallStyle(before='{"name": "', after_name=f'", "{arguments_key}": ', after="}", **marks)
