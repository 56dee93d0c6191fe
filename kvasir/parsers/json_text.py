"""JSON read while it comes: checked character by character, passed on as it was written."""

import re
from collections.abc import Callable
from typing import Any

import msgspec

from kvasir.parsers.output import Output
from kvasir.parsers.reader import Reader, Steps

MAX_DEPTH = 100
Sink = Callable[[str], None]

_SCALAR = re.compile(r"(?:-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)\Z")
_SCALAR_RUN = re.compile(r"[-+.0-9A-Za-z]*")
_STRING_RUN = re.compile(r'[^"\\\x00-\x1f]*')
_HEX = frozenset("0123456789abcdefABCDEF")


def encode(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def decode(text: str) -> Any:
    """Raises ValueError."""
    try:
        return msgspec.json.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def in_string(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return encode(text)[1:-1]


def read_value(reader: Reader, sink: Sink) -> Steps[bool]:
    """Passes one value on. False: it is broken, or cut off; whatever was read has gone to `sink` then, too."""
    closers: list[str] = []
    while True:
        sink((yield from reader.spaces()))
        c = yield from reader.peek()
        if c == "{" or c == "[":
            yield from reader.has(c)
            sink(c + (yield from reader.spaces()))
            closers.append("}" if c == "{" else "]")
            if len(closers) > MAX_DEPTH:
                return False
            if not (yield from reader.has(closers[-1])):
                if c == "{" and not (yield from _read_key(reader, sink)):
                    return False
                continue
            sink(closers.pop())
        elif c == '"':
            if not (yield from read_string(reader, sink)):
                return False
        else:
            word = yield from reader.run(_SCALAR_RUN)
            sink(word)
            if not _SCALAR.match(word):
                return False
        more = yield from _close(reader, sink, closers)
        if more is not True:
            return more is None


def _close(reader: Reader, sink: Sink, closers: list[str]) -> Steps[bool | None]:
    """After a value: True when another one follows, None when all is closed, False when it is broken."""
    while closers:
        sink((yield from reader.spaces()))
        if (yield from reader.has(",")):
            sink(",")
            if closers[-1] == "}":
                sink((yield from reader.spaces()))
                return (yield from _read_key(reader, sink))
            return True
        if not (yield from reader.has(closers[-1])):
            return False
        sink(closers.pop())
    return None


def _read_key(reader: Reader, sink: Sink) -> Steps[bool]:
    if (yield from reader.peek()) != '"' or not (yield from read_string(reader, sink)):
        return False
    sink((yield from reader.spaces()))
    if not (yield from reader.has(":")):
        return False
    sink(":")
    return True


def read_string(reader: Reader, sink: Sink) -> Steps[bool]:
    """From quote to quote. Line breaks and other control characters, which models write raw, are passed on escaped."""
    yield from reader.has('"')
    sink('"')
    while True:
        yield from reader.run(_STRING_RUN, sink)
        c = yield from reader.peek()
        if not c:
            return False
        yield from reader.has(c)
        if c == '"':
            sink(c)
            return True
        if c != "\\":
            sink(in_string(c))
            continue
        escape = c
        c = yield from reader.peek()
        if not c or c not in '"\\/bfnrtu':
            sink(escape)
            return False
        yield from reader.has(c)
        escape += c
        while c == "u" and len(escape) < 6:
            digit = yield from reader.peek()
            if not digit or digit not in _HEX:
                sink(escape)
                return False
            yield from reader.has(digit)
            escape += digit
        sink(escape)


def read_text(reader: Reader) -> Steps[str | None]:
    """A string, decoded; None when there is none or it is broken."""
    parts: list[str] = []
    if (yield from reader.peek()) != '"' or not (yield from read_string(reader, parts.append)):
        return None
    try:
        return decode("".join(parts))
    except ValueError:  # half of a surrogate pair
        return None


class CallKeys(msgspec.Struct, frozen=True):
    """What the parts of a call are called, and which names count (None: any)."""

    name: tuple[str, ...] = ("name",)
    arguments: tuple[str, ...] = ("arguments", "parameters")
    id: str | None = None
    known: frozenset[str] | None = None


def read_call(reader: Reader, out: Output, keys: CallKeys) -> Steps[bool]:
    """`{"name": ..., "arguments": {...}}`, in any order of keys.

    Arguments stream once the name is known. Returns True when a complete call was made, False when not: then
    `out.in_call` tells whether it was announced before it broke; otherwise nothing was said.
    """
    if not (yield from reader.has("{")):
        return False
    name = call_id = held = None
    while True:
        key = yield from _read_member_name(reader)
        if key is None:
            return False
        if key in keys.name and name is None:
            name = yield from read_text(reader)
            if not name or (keys.known is not None and name not in keys.known):
                return False
        elif key in keys.arguments and held is None:
            if name is not None and (yield from reader.peek()) == "{":
                out.start(name, call_id)
                reader.unpin()
                if not (yield from read_value(reader, out.arguments)):
                    return False
                out.end()
                yield from _read_tail(reader)
                return True
            held = yield from _read_held(reader)
            if held is None:
                return False
        elif key == keys.id and (yield from reader.peek()) == '"':
            call_id = yield from read_text(reader)
        elif not (yield from read_value(reader, _nowhere)):
            return False
        yield from reader.spaces()
        if not (yield from reader.has(",")):
            break
    if name is None or not (yield from reader.has("}")):
        return False
    out.start(name, call_id)
    out.arguments(held or "{}")
    out.end()
    return True


def _read_member_name(reader: Reader) -> Steps[str | None]:
    yield from reader.spaces()
    key = yield from read_text(reader)
    yield from reader.spaces()
    if key is None or not (yield from reader.has(":")):
        return None
    yield from reader.spaces()
    return key


def _read_tail(reader: Reader) -> Steps[None]:
    """What may follow the arguments up to the closing brace; if it is something else, it is not the call's."""
    tail = reader.pin()
    while True:
        yield from reader.spaces()
        if (yield from reader.has("}")):
            return
        if not (yield from reader.has(",")) or (yield from _read_member_name(reader)) is None:
            break
        if not (yield from read_value(reader, _nowhere)):
            break
    reader.rewind(tail)


def _read_held(reader: Reader) -> Steps[str | None]:
    """Arguments that came before the name, as a string of JSON, or as null."""
    parts: list[str] = []
    c = yield from reader.peek()
    if c not in ('"', "{", "n"):
        return None
    if not (yield from read_value(reader, parts.append)):
        return None
    text = "".join(parts)
    if c == "{":
        return text
    try:
        value = decode(text)
        if value is None or value == "":
            return "{}"
        return value if isinstance(decode(value), dict) else None
    except ValueError:
        return None


def _nowhere(text: str) -> None:
    """For what is read but not wanted."""
