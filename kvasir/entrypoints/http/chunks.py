"""OpenAI's chat and completion answers: chunks with choices, usage, [DONE]; or one object of the same choices."""

import time
from typing import Any

import msgspec

from kvasir import __version__
from kvasir.entrypoints.http.deltas import Delta, Usage
from kvasir.entrypoints.http.errors import error_body
from kvasir.entrypoints.http.progress import ProgressBody
from kvasir.entrypoints.http.render import Shape, UsageBody, usage_body

FINGERPRINT = f"kvasir-{__version__}"
DONE = b"data: [DONE]\n\n"
_MARK = "the text"  # choices come last in a line, so its last place in one is the text's
encode = msgspec.json.Encoder().encode


class StreamFormat(msgspec.Struct, frozen=True):
    """What the client asked a stream to carry."""

    include_usage: bool
    continuous_usage: bool


class Envelope(msgspec.Struct, frozen=True):
    """What stands around the text in the lines of one choice."""

    before: bytes
    after: bytes


class ChoicesFormat:
    """Writes the answers of both routes; what differs between them is their `shape`."""

    def __init__(self, shape: Shape, answer_id: str, model: str, num_choices: int, usage: Usage, asked: StreamFormat):
        self._shape = shape
        self._asked = asked
        self._usage = usage
        self._head: dict[str, Any] = {
            "id": shape.id_prefix + answer_id,
            "object": shape.object_name,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": FINGERPRINT,
        }
        self._writer = ChunkWriter({**self._head, "object": shape.chunk_object_name})
        self._envelopes: dict[int, Envelope] | None = None
        if shape.says_text_only and not asked.continuous_usage:
            self._envelopes = {}
        self._opened = False
        self._wholes = [Delta(i) for i in range(num_choices)]
        self._seen = [False] * num_choices

    def chunks(self, deltas: list[Delta]) -> bytes:
        pieces: list[bytes] = []
        usage = usage_body(self._usage) if self._asked.continuous_usage else None
        if not self._opened:
            self._opened = True
            pieces += self._opening(deltas, usage)
        for delta in deltas:
            if self._envelopes is not None and delta.is_plain:
                envelope = self._envelopes.get(delta.index) or self._envelope(delta.index)
                pieces += (envelope.before, encode(delta.text), envelope.after)
            else:
                pieces += self._lines(delta, usage)
        return b"".join(pieces)

    def _lines(self, delta: Delta, usage: UsageBody | None) -> list[bytes]:
        return [self._writer.line([c], usage, self._asked.include_usage) for c in self._shape.chunks(delta)]

    def _envelope(self, index: int) -> "Envelope":
        """Cut out of a line that was made the usual way, so that it can differ from one in nothing but the text."""
        (line,) = self._lines(Delta(index, _MARK), None)
        before, _, after = line.rpartition(encode(_MARK))
        assert self._envelopes is not None
        envelope = self._envelopes[index] = Envelope(before, after)
        return envelope

    def _opening(self, deltas: list[Delta], usage: UsageBody | None) -> list[bytes]:
        pieces = []
        extras = self._shape.extras(deltas) if deltas else {}
        for index in range(len(self._wholes)):
            chunk = self._shape.opening(index)
            if chunk is not None:
                pieces.append(self._writer.line([chunk], usage, self._asked.include_usage, extras))
                extras = {}
        return pieces

    def progress(self, body: ProgressBody) -> bytes:
        usage = usage_body(self._usage) if self._asked.continuous_usage else None
        return self._writer.line([], usage, self._asked.include_usage, {"prompt_progress": body})

    def end(self) -> bytes:
        if not self._asked.include_usage:
            return DONE
        return self._writer.line([], usage_body(self._usage), False) + DONE

    def failure(self, error: BaseException) -> bytes:
        return b"data: " + encode(error_body(error)) + b"\n\n" + DONE

    def collect(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            if self._seen[delta.index]:
                self._wholes[delta.index].add(delta)
            else:
                self._wholes[delta.index], self._seen[delta.index] = delta, True

    def whole(self) -> bytes:
        body: dict[str, Any] = {
            **self._head,
            "choices": [self._shape.choice(whole) for whole in self._wholes],
            "usage": usage_body(self._usage),
            **self._shape.extras(self._wholes),
        }
        return encode(body)


class ChunkWriter:
    """Writes `data:` lines of one stream: the constant head is encoded once, only choices and usage per token."""

    def __init__(self, head: dict[str, Any]):
        self._head = b"data: " + encode(head)[:-1] + b',"choices":'

    def line(
        self, choices: list[Any], usage: UsageBody | None, usage_null: bool, extras: dict[str, Any] | None = None
    ) -> bytes:
        parts = [self._head, encode(choices)]
        if usage is not None:
            parts += (b',"usage":', encode(usage))
        elif usage_null:  # OpenAI's sign that a usage chunk will follow
            parts.append(b',"usage":null')
        if extras:
            parts += (b",", encode(extras)[1:-1])
        parts.append(b"}\n\n")
        return b"".join(parts)
