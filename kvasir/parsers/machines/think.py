"""Thoughts between two tags, at the beginning of an answer."""

from dataclasses import dataclass

from kvasir.parsers.output import Output
from kvasir.parsers.parser import Format
from kvasir.parsers.reader import SPACES, Reader, Steps, Tags


@dataclass(frozen=True)
class Think:
    """How a family writes. `inside`: answers begin in the middle of a thought, unless the prompt tells."""

    opens: tuple[str, ...] = ("<think>",)
    closes: tuple[str, ...] = ("</think>",)
    inside: bool = False


def starts_inside(style: Think, prompt: str | None) -> bool | None:
    """What the end of the prompt says: True in a thought, False after one, None neither."""
    end = (prompt or "").rstrip(SPACES)
    if end.endswith(style.opens):
        return True
    return False if end.endswith(style.closes) else None


def think(style: Think, prompt: str | None = None) -> Format:
    """Spaces next to a tag belong to the tag."""
    told = starts_inside(style, prompt)
    closing = Tags(*style.closes)

    def read(reader: Reader, out: Output) -> Steps[None]:
        inside = style.inside if told is None else told
        if told is not False:
            start = reader.pin()
            yield from reader.spaces()
            opened = False
            for tag in style.opens:
                opened = opened or (yield from reader.has(tag))
            if opened:
                yield from reader.spaces()
            elif not inside:
                reader.rewind(start)
            reader.unpin()
            if opened or inside:
                closed = yield from _thought(reader, out, closing)
                if closed:
                    yield from reader.spaces()
        yield from reader.rest(out.content)

    return read


def _thought(reader: Reader, out: Output, closing: Tags) -> Steps[bool]:
    spaces = ""

    def say(text: str) -> None:
        nonlocal spaces
        body = text.rstrip(SPACES)
        if body:
            out.reasoning(spaces + body)
            spaces = ""
        spaces += text[len(body) :]

    tag = yield from reader.until(closing, say)
    if not tag:
        out.reasoning(spaces)
        return False
    yield from reader.has(tag)
    return True
