"""OpenAI's chat and completion answers: chunks with choices, usage, [DONE]; or one object of the same choices."""

import time
from typing import Any

import msgspec

from kvasir import __version__
from kvasir.entrypoints.http.deltas import Delta, Usage
from kvasir.entrypoints.http.errors import error_body
from kvasir.entrypoints.http.render import Shape, UsageBody, usage_body

FINGERPRINT = f"kvasir-{__version__}"
DONE = b"data: [DONE]\n\n"


class StreamFormat(msgspec.Struct, frozen=True):
    """What the client asked a stream to carry."""

    include_usage: bool
    continuous_usage: bool


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
            for chunk in self._shape.chunks(delta):
                pieces.append(self._writer.line([chunk], usage, self._asked.include_usage))
        return b"".join(pieces)

    def _opening(self, deltas: list[Delta], usage: UsageBody | None) -> list[bytes]:
        pieces = []
        extras = self._shape.extras(deltas) if deltas else {}
        for index in range(len(self._wholes)):
            chunk = self._shape.opening(index)
            if chunk is not None:
                pieces.append(self._writer.line([chunk], usage, self._asked.include_usage, extras))
                extras = {}
        return pieces

    def end(self) -> bytes:
        if not self._asked.include_usage:
            return DONE
        return self._writer.line([], usage_body(self._usage), False) + DONE

    def failure(self, error: BaseException) -> bytes:
        return b"data: " + msgspec.json.encode(error_body(error)) + b"\n\n" + DONE

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
        return msgspec.json.encode(body)


class ChunkWriter:
    """Writes `data:` lines of one stream: the constant head is encoded once, only choices and usage per token."""

    def __init__(self, head: dict[str, Any]):
        self._head = b"data: " + msgspec.json.encode(head)[:-1] + b',"choices":'
        self._encoder = msgspec.json.Encoder()

    def line(
        self, choices: list[Any], usage: UsageBody | None, usage_null: bool, extras: dict[str, Any] | None = None
    ) -> bytes:
        parts = [self._head, self._encoder.encode(choices)]
        if usage is not None:
            parts += (b',"usage":', self._encoder.encode(usage))
        elif usage_null:  # OpenAI's sign that a usage chunk will follow
            parts.append(b',"usage":null')
        if extras:
            parts += (b",", self._encoder.encode(extras)[1:-1])
        parts.append(b"}\n\n")
        return b"".join(parts)
