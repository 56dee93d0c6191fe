"""Calls as JSON objects with a name and arguments, behind a tag, in a list, or bare at the beginning of an answer."""

from dataclasses import dataclass, replace

from kvasir.parsers.json_text import CallKeys, read_call
from kvasir.parsers.output import Output
from kvasir.parsers.parser import Format
from kvasir.parsers.reader import Reader, Steps, Tags


@dataclass(frozen=True)
class TaggedJson:
    """How a family writes.

    Attributes:
        opens: tags that announce a call, or a list of calls.
        close: what follows; its absence is forgiven.
        lists: a list of calls may stand where one may.
        between: what may stand between calls that are not in a list.
        bare: an answer may begin with a call and no tag. Then the name must be one of the tools',
            for answers in JSON look the same.
    """

    opens: tuple[str, ...]
    close: str = ""
    lists: bool = False
    between: str = ""
    bare: bool = False
    keys: CallKeys = CallKeys()


def tagged_json(style: TaggedJson, tool_names: frozenset[str]) -> Format:
    tags = Tags(*style.opens)
    if style.bare:
        style = replace(style, keys=CallKeys(style.keys.name, style.keys.arguments, style.keys.id, tool_names))

    def read(reader: Reader, out: Output) -> Steps[None]:
        if style.bare:
            yield from _bare(reader, out, style)
        while tag := (yield from reader.until(tags, out.content)):
            start = reader.pin()
            yield from reader.has(tag)
            yield from reader.spaces()
            if not (yield from read_calls(reader, out, style)):
                reader.rewind(start)
                yield from reader.has(tag)
                out.content(tag)
            reader.unpin()

    return read


def _bare(reader: Reader, out: Output, style: TaggedJson) -> Steps[None]:
    start = reader.pin()
    yield from reader.spaces()
    if not (yield from read_calls(reader, out, style)):
        reader.rewind(start)
    reader.unpin()


def read_calls(reader: Reader, out: Output, style: TaggedJson) -> Steps[bool]:
    """A call or a list of them, and the closing tag. False when not even the first was announced."""
    listed = style.lists and (yield from reader.has("["))
    separator = "," if listed else style.between
    if listed:
        yield from reader.spaces()
    made = yield from read_call(reader, out, style.keys)
    if not made and not out.in_call:
        return False
    while made and separator:
        rest = reader.pin()
        if not (yield from reader.after_spaces(separator)):
            break
        yield from reader.spaces()
        made = yield from read_call(reader, out, style.keys)
        if not made and not out.in_call:
            reader.rewind(rest)
            break
    if out.in_call:
        yield from give_up(reader, out, style.close)
    elif listed:
        yield from reader.after_spaces("]")
    reader.unpin()
    if style.close:
        yield from reader.after_spaces(style.close)
    return True


def give_up(reader: Reader, out: Output, close: str) -> Steps[None]:
    """A call that broke after it was announced: the rest of it is passed on as it is, for the client to see."""
    if close:
        yield from reader.until(Tags(close), out.arguments)
    else:
        yield from reader.rest(out.arguments)
    out.end(complete=False)
