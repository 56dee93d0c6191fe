"""Calls as a name in front of a JSON object, between marks: DeepSeek, Kimi, Mistral."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from kvasir.parsers.json_text import read_value
from kvasir.parsers.machines.tagged_json import give_up
from kvasir.parsers.output import Output
from kvasir.parsers.parser import Format
from kvasir.parsers.reader import Reader, Steps, Tags

MAX_NAME = 256
_NAME_RUN = re.compile(r"[\w.:\-]*")


def name_only(header: str) -> tuple[str, str | None]:
    return header, None


@dataclass(frozen=True)
class NamedJson:
    """How a family writes.

    Attributes:
        section: opens a group of calls; its absence is forgiven.
        open: opens a call.
        before_name: stands between the two.
        before_arguments: ends the name.
        after_arguments: ends the arguments.
        header: what stands for the name -> name, id.
    """

    open: str
    before_arguments: str
    after_arguments: str = ""
    section: str = ""
    section_end: str = ""
    before_name: str = ""
    header: Callable[[str], tuple[str, str | None]] = name_only


def named_json(style: NamedJson) -> Format:
    opening = Tags(*filter(None, (style.section, style.open)))

    def read(reader: Reader, out: Output) -> Steps[None]:
        while tag := (yield from reader.until(opening, out.content)):
            start = reader.pin()
            yield from reader.has(tag)
            found = True
            if tag == style.section:
                found = yield from reader.after_spaces(style.open)
            if not found or not (yield from read_named(reader, out, style)):
                reader.rewind(start)
                yield from reader.has(tag)
                out.content(tag)
            elif style.section_end:
                yield from reader.after_spaces(style.section_end)
            reader.unpin()

    return read


def read_named(reader: Reader, out: Output, style: NamedJson) -> Steps[bool]:
    """A call whose opening mark was read. False when it was not announced."""
    if style.before_name and not (yield from reader.has(style.before_name)):
        return False
    yield from reader.spaces()
    header = yield from reader.run(_NAME_RUN)
    name, call_id = style.header(header)
    if not name or len(header) > MAX_NAME:
        return False
    if style.before_arguments and not (yield from reader.after_spaces(style.before_arguments)):
        return False
    yield from reader.spaces()
    if (yield from reader.peek()) != "{":
        return False
    out.start(name, call_id)
    reader.unpin()
    if not (yield from read_value(reader, out.arguments)):
        yield from give_up(reader, out, style.after_arguments or style.open)
    else:
        out.end()
    if style.after_arguments:
        yield from reader.after_spaces(style.after_arguments)
    return True
