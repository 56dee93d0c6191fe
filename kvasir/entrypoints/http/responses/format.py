"""Deltas -> the typed events of a response; the whole response is what those events add up to."""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from kvasir.entrypoints.http.deltas import Delta, Usage
from kvasir.entrypoints.http.errors import error_body
from kvasir.entrypoints.http.parts import Change, Part, Parts
from kvasir.entrypoints.http.responses.items import content_part, item, item_id, token_logprobs
from kvasir.errors import QueueFullError, UserError

CountTokens = Callable[[str], int]


class ResponseFormat:
    """One response in the making.

    Args:
        head: the fields that stay: id, model, and what the request asked.
        count_tokens: of a text, for the share of thoughts in the usage.

    Attributes:
        on_final: given the response once nothing will change any more.
    """

    def __init__(self, head: dict[str, Any], usage: Usage, count_tokens: CountTokens):
        self.response_id: str = head["id"]
        self._head = head
        self._usage = usage
        self._count_tokens = count_tokens
        self.on_final: Callable[[dict[str, Any]], None] | None = None
        self._parts = Parts()
        self._status = "in_progress"
        self._final_usage: dict[str, Any] | None = None
        self._error: dict[str, str] | None = None
        self._finish_reason: str | None = None
        self._next_number = 0
        self._encoder = msgspec.json.Encoder()

    # -- the response as an object ----------------------------------------------------------------------------

    def body(self) -> dict[str, Any]:
        """The response as far as it has come."""
        incomplete = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            **self._head,
            "status": self._status,
            "error": self._error,
            "incomplete_details": incomplete,
            "completed_at": int(time.time()) if self._status == "completed" else None,
            "output": [item(self.response_id, part, self._status_of(part)) for part in self._parts.all],
            "usage": self._final_usage,
        }

    def set_queued(self) -> None:
        self._status = "queued"

    def cancel(self) -> None:
        """Ends it where it stands; a response that is final stays what it is."""
        if self._status in ("queued", "in_progress"):
            self._parts.close()
            self._finish("cancelled")

    def _finish(self, status: str) -> None:
        self._status = status
        self._final_usage = self._usage_body()
        if self.on_final is not None:
            self.on_final(self.body())

    def _status_of(self, part: Part) -> str:
        if part.is_open and self._status in ("queued", "in_progress"):
            return "in_progress"
        return "completed" if self._status == "completed" or part is not self._parts.all[-1] else "incomplete"

    def _usage_body(self) -> dict[str, Any]:
        usage = self._usage
        thoughts = sum(self._count_tokens(part.text) for part in self._parts.all if part.kind == "reasoning")
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": min(thoughts, usage.completion_tokens)},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }

    def collect(self, deltas: list[Delta]) -> None:
        for delta in deltas:
            self._parts.add(delta)
            self._finish_reason = delta.finish_reason or self._finish_reason

    def whole(self) -> bytes:
        self._parts.close()
        self._finish(self._final_status())
        return msgspec.json.encode(self.body())

    def _final_status(self) -> str:
        return "incomplete" if self._finish_reason == "length" else "completed"

    # -- the response as events -------------------------------------------------------------------------------

    def queued(self) -> bytes:
        return self._event("response.queued", response=self.body())

    def created(self) -> bytes:
        return self._event("response.created", response=self.body())

    def chunks(self, deltas: list[Delta]) -> bytes:
        events = self._begin()
        for delta in deltas:
            for change in self._parts.add(delta):
                events += self._events_of(change)
            self._finish_reason = delta.finish_reason or self._finish_reason
        return b"".join(events)

    def _begin(self) -> list[bytes]:
        events = []
        if self._next_number == 0:
            events.append(self.created())
        if self._status == "queued" or events:
            self._status = "in_progress"
            events.append(self._event("response.in_progress", response=self.body()))
        return events

    def end(self) -> bytes:
        events = self._begin()
        status = self._final_status()
        for change in self._parts.close():
            events += self._events_of(change, status)
        self._finish(status)
        return b"".join([*events, self._event(f"response.{status}", response=self.body())])

    def failure(self, error: BaseException) -> bytes:
        code = "invalid_prompt" if isinstance(error, UserError) else "server_error"
        if isinstance(error, QueueFullError):
            code = "rate_limit_exceeded"
        self._error = {"code": code, "message": error_body(error)["error"]["message"]}
        self._parts.close()
        self._finish("failed")
        return self._event("response.failed", response=self.body())

    def _events_of(self, change: Change, status: str = "completed") -> list[bytes]:
        part = change.part
        place: dict[str, Any] = {"item_id": item_id(self.response_id, part), "output_index": part.index}
        if part.kind != "call":
            place["content_index"] = 0
        if change.what == "grew":
            return [self._grew(change, place)]
        if change.what == "opened":
            opened = item(self.response_id, part, "in_progress", empty=True)
            events = [self._event("response.output_item.added", output_index=part.index, item=opened)]
            if part.kind != "call":
                events.append(self._event("response.content_part.added", **place, part=content_part(part, empty=True)))
            return events
        return self._closed(part, place, status)

    def _closed(self, part: Part, place: dict[str, Any], status: str) -> list[bytes]:
        """Events are numbered as they are made, so they are made in order."""
        events = []
        if part.kind == "call":
            done = {"arguments": part.text, "name": part.name}
            events.append(self._event("response.function_call_arguments.done", **place, **done))
        else:
            said: dict[str, Any] = {"text": part.text}
            name = "response.reasoning_text.done"
            if part.kind == "text":
                name, said["logprobs"] = "response.output_text.done", token_logprobs(part.logprobs)
            events.append(self._event(name, **place, **said))
            events.append(self._event("response.content_part.done", **place, part=content_part(part)))
        closed = item(self.response_id, part, status)
        events.append(self._event("response.output_item.done", output_index=part.index, item=closed))
        return events

    def _grew(self, change: Change, place: dict[str, Any]) -> bytes:
        if change.part.kind == "call":
            return self._event("response.function_call_arguments.delta", **place, delta=change.text)
        if change.part.kind == "reasoning":
            return self._event("response.reasoning_text.delta", **place, delta=change.text)
        logprobs = token_logprobs(change.logprobs)
        return self._event("response.output_text.delta", **place, delta=change.text, logprobs=logprobs)

    def _event(self, name: str, /, **fields: Any) -> bytes:
        number, self._next_number = self._next_number, self._next_number + 1
        data = self._encoder.encode({"type": name, "sequence_number": number, **fields})
        return b"".join((b"event: ", name.encode(), b"\ndata: ", data, b"\n\n"))
