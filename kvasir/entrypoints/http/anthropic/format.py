"""Deltas -> the typed events of a message; the whole message has the same blocks."""

from typing import Any

import msgspec

from kvasir.entrypoints.http.deltas import Delta, Usage
from kvasir.entrypoints.http.error_shapes import MessagesErrors
from kvasir.entrypoints.http.parts import Change, Part, Parts

_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


class MessageFormat:
    """One message in the making.

    Args:
        clipped: max_tokens was lowered to what the context has room for.
    """

    def __init__(self, message_id: str, request_id: str, model: str, usage: Usage, clipped: bool):
        self._id = message_id
        self._request_id = request_id
        self._model = model
        self._usage = usage
        self._clipped = clipped
        self._parts = Parts()
        self._started = False
        self._stop_reason: str | None = None
        self._stop_sequence: str | None = None
        self._encoder = msgspec.json.Encoder()

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": self._stop_reason,
            "stop_sequence": self._stop_sequence,
            "usage": self._usage_body(),
        }

    def _usage_body(self) -> dict[str, int]:
        """Here, unlike in OpenAI's usage, input tokens are those that were not found in the cache."""
        usage = self._usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        }

    def _note(self, delta: Delta) -> None:
        if delta.finish_reason is None:
            return
        if delta.finish_reason == "length":
            self._stop_reason = "model_context_window_exceeded" if self._clipped else "max_tokens"
        elif delta.finish_reason == "tool_calls":
            self._stop_reason = "tool_use"
        elif isinstance(delta.stop_reason, str):
            self._stop_reason, self._stop_sequence = "stop_sequence", delta.stop_reason
        else:
            self._stop_reason = "end_turn"

    def collect(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self._parts.add(delta)
            self._note(delta)

    def whole(self) -> bytes:
        return self._encoder.encode(self._message([_block(part) for part in self._parts.all]))

    def chunks(self, deltas: list[Delta]) -> bytes:
        events = self._begin()
        for delta in deltas:
            for change in self._parts.add(delta):
                events.append(self._event_of(change))
            self._note(delta)
        return b"".join(events)

    def _begin(self) -> list[bytes]:
        if self._started:
            return []
        self._started = True
        return [self._event("message_start", message=self._message([])), self._event("ping")]

    def end(self) -> bytes:
        events = self._begin() + [self._event_of(change) for change in self._parts.close()]
        delta = {"stop_reason": self._stop_reason, "stop_sequence": self._stop_sequence}
        events.append(self._event("message_delta", delta=delta, usage=self._usage_body()))
        return b"".join([*events, self._event("message_stop")])

    def failure(self, error: BaseException) -> bytes:
        body = MessagesErrors.body(error, self._request_id)
        return b"event: error\ndata: " + self._encoder.encode(body) + b"\n\n"

    def _event_of(self, change: Change) -> bytes:
        part = change.part
        if change.what == "opened":
            return self._event("content_block_start", index=part.index, content_block=_block(part, empty=True))
        if change.what == "closed":
            return self._event("content_block_stop", index=part.index)
        kind, field = _DELTAS[part.kind]
        return self._event("content_block_delta", index=part.index, delta={"type": kind, field: change.text})

    def _event(self, name: str, /, **fields: Any) -> bytes:
        data = self._encoder.encode({"type": name, **fields})
        return b"".join((b"event: ", name.encode(), b"\ndata: ", data, b"\n\n"))


def _block(part: Part, *, empty: bool = False) -> dict[str, Any]:
    if part.kind == "call":
        arguments = {} if empty else _object(part.text)
        return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": arguments}
    text = "" if empty else part.text
    if part.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    return {"type": "text", "text": text, "citations": None}


def _object(arguments: str) -> dict[str, Any]:
    """Arguments that broke, or were cut off, are shown as they were written: this API has objects only."""
    try:
        value = msgspec.json.decode(arguments or "{}")
    except (msgspec.DecodeError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"raw_arguments": arguments}
