"""Calls whose arguments stand between tags, one by one, as plain text: Qwen3-Coder, GLM."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvasir.parsers.json_text import encode, in_string
from kvasir.parsers.output import Output
from kvasir.parsers.parser import Format
from kvasir.parsers.reader import Reader, Steps, Tags
from kvasir.parsers.values import ToolSchema, is_text, typed

MAX_NAME = 256
_WORD_RUN = re.compile(r"[^<>\s]*")


@dataclass(frozen=True)
class XmlStyle:
    """How a family writes.

    Attributes:
        open: begins a call; its absence is forgiven when the name has a mark of its own.
        before_name, after_name: around the name; either may be empty.
        before_key, after_key, before_value, after_value: around each argument.
        end: closes the arguments, before `close`.
        strips_line: one line break on each side of a value is markup.
    """

    open: str
    close: str
    before_name: str
    after_name: str
    before_key: str
    after_key: str
    before_value: str
    after_value: str
    end: str
    strips_line: bool


def xml(style: XmlStyle, tools: Sequence[ToolSchema]) -> Format:
    schemas = {tool.name: tool for tool in tools}
    opening = Tags(*filter(None, (style.open, style.before_name)))

    def read(reader: Reader, out: Output) -> Steps[None]:
        while tag := (yield from reader.until(opening, out.content)):
            start = reader.pin()
            yield from reader.has(tag)
            if not (yield from _call(reader, out, style, schemas, named=tag == style.before_name)):
                reader.rewind(start)
                yield from reader.has(tag)
                out.content(tag)
            reader.unpin()

    return read


def _call(reader: Reader, out: Output, style: XmlStyle, schemas: dict[str, ToolSchema], named: bool) -> Steps[bool]:
    """A call whose first tag was read. False when it was not announced."""
    if style.before_name and not named and not (yield from reader.after_spaces(style.before_name)):
        return False
    yield from reader.spaces()
    name = yield from reader.run(_WORD_RUN)
    if not name or len(name) > MAX_NAME:
        return False
    if style.after_name and not (yield from reader.after_spaces(style.after_name)):
        return False
    # Announced only with what must follow the name, so that a text about tags is not taken for a call.
    yield from reader.spaces()
    if (yield from reader.peek()) != "<":
        return False
    more = yield from reader.has(style.before_key)
    closed = not more and (yield from _closed(reader, style))
    if not more and not closed:
        return False
    out.start(name)
    reader.unpin()
    out.arguments("{")
    first = True
    schema = schemas.get(name, ToolSchema(name))
    while more:
        out.arguments("" if first else ", ")
        first = False
        if not (yield from _argument(reader, out, style, schema)):
            out.end(complete=False)
            return True
        more = yield from reader.after_spaces(style.before_key)
    if closed or (yield from _closed(reader, style)):
        out.arguments("}")
        out.end()
    else:
        out.end(complete=False)
    return True


def _closed(reader: Reader, style: XmlStyle) -> Steps[bool]:
    """One of the closing tags may be missing; without both, more arguments might have followed."""
    ended = bool(style.end) and (yield from reader.after_spaces(style.end))
    return (yield from reader.after_spaces(style.close)) or ended


def _argument(reader: Reader, out: Output, style: XmlStyle, schema: ToolSchema) -> Steps[bool]:
    key: list[str] = []
    if not (yield from _text_before(reader, style.after_key, key.append)):
        return False
    name = "".join(key).strip()
    out.arguments(encode(name) + ": ")
    if style.before_value and not (yield from reader.after_spaces(style.before_value)):
        return False
    types = schema.types(name)
    if style.strips_line:
        yield from reader.has("\n")
    if is_text(types):
        out.arguments('"')
        trimmed = _LineTrimmer(lambda text: out.arguments(in_string(text))) if style.strips_line else None
        sink = trimmed.add if trimmed else lambda text: out.arguments(in_string(text))
        closed = yield from _text_before(reader, style.after_value, sink)
        if closed:
            out.arguments('"')
        elif trimmed:
            trimmed.flush()
        return closed
    value: list[str] = []
    if not (yield from _text_before(reader, style.after_value, value.append)):
        out.arguments(in_string("".join(value)))
        return False
    text = "".join(value)
    out.arguments(typed(text.removesuffix("\n") if style.strips_line else text, types))
    return True


def _text_before(reader: Reader, tag: str, sink: Callable[[str], None]) -> Steps[bool]:
    if not (yield from reader.until(Tags(tag), sink)):
        return False
    yield from reader.has(tag)
    return True


class _LineTrimmer:
    """Keeps a line break back until it is known not to be the last character."""

    def __init__(self, sink: Callable[[str], None]):
        self._sink, self._held = sink, ""

    def add(self, text: str) -> None:
        text = self._held + text
        self._held = "\n" if text.endswith("\n") else ""
        self._sink(text.removesuffix("\n"))

    def flush(self) -> None:
        self._sink(self._held)
