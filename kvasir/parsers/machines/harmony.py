"""gpt-oss's format: an answer is messages with a header each, on channels for thoughts, calls and the answer proper.

`<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>commentary to=functions.NAME <|constrain|>json`
`<|message|>{...}<|call|>`; the prompt has already said `<|start|>assistant`.
"""

import re
from dataclasses import dataclass

from kvasir.parsers.json_text import read_value
from kvasir.parsers.output import Output
from kvasir.parsers.parser import Format
from kvasir.parsers.reader import Reader, Steps, Tags

_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "<|start|>", "<|channel|>", "<|constrain|>", "<|message|>"
_ENDS = ("<|end|>", "<|call|>", "<|return|>")
_CLOSING = Tags(*_ENDS, _START, _CHANNEL)
_WORDS_RUN = re.compile(r"[^<\n]*")
_RECIPIENT = re.compile(r"\bto=(\S+)")
_FUNCTIONS = "functions."


@dataclass
class _Header:
    channel: str = ""
    recipient: str = ""


def harmony(tool_names: frozenset[str] | None) -> Format:
    """`tool_names` None: no calls are looked for."""

    def read(reader: Reader, out: Output) -> Steps[None]:
        known = False  # a whole message was read, so this is harmony and no text about it
        while True:
            start = reader.pin()
            header = yield from _read_header(reader)
            if header is None and known and not (yield from reader.peek()):
                return  # cut off inside a header, which is no text
            if header is None:
                reader.rewind(start)
                for opening in (_START, _CHANNEL):
                    out.content(opening if (yield from reader.has(opening)) else "")
            elif (yield from _read_body(reader, out, header, tool_names)):
                known = True
            else:
                out.content(reader.since(start))
            reader.unpin()
            while (tag := (yield from reader.until(_CLOSING, out.content))) in _ENDS:
                yield from reader.has(tag)
                out.content("" if known else tag)
            if not tag:
                return

    return read


def _read_header(reader: Reader) -> Steps[_Header | None]:
    """All up to the message itself; None when it is none. What comes before the channel may name the recipient too."""
    header = _Header()
    yield from reader.has(_START)
    words = yield from reader.run(_WORDS_RUN)
    _note_recipient(header, words)
    while (yield from reader.has(_CHANNEL)):  # models have been seen to repeat it
        words = yield from reader.run(_WORDS_RUN)
        header.channel = header.channel or words.partition(" ")[0]
        _note_recipient(header, words)
    if (yield from reader.has(_CONSTRAIN)):
        yield from reader.run(_WORDS_RUN)
    return header if (yield from reader.has(_MESSAGE)) else None


def _note_recipient(header: _Header, words: str) -> None:
    found = _RECIPIENT.search(words)
    if found and not header.recipient:
        header.recipient = found[1]


def _read_body(reader: Reader, out: Output, header: _Header, tool_names: frozenset[str] | None) -> Steps[bool]:
    """False for a call that was not announced, because its arguments are no object."""
    if tool_names is not None and (header.recipient.startswith(_FUNCTIONS) or header.recipient in tool_names):
        yield from reader.spaces()
        if (yield from reader.peek()) != "{":
            return False
        out.start(header.recipient.removeprefix(_FUNCTIONS))
        reader.unpin()
        complete = yield from read_value(reader, out.arguments)
        if not complete:
            yield from reader.until(_CLOSING, out.arguments)
        out.end(complete)
        if complete:
            yield from reader.until(_CLOSING, out.content)
    else:
        reader.unpin()
        yield from reader.until(_CLOSING, out.reasoning if header.channel == "analysis" else out.content)
    for end in _ENDS:
        if (yield from reader.has(end)):
            break
    return True
