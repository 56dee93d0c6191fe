"""Creates responses: in the foreground as an answer like any other, in the background as a task with a log."""

import asyncio
import time
import uuid
from typing import Any

from kvasir.entrypoints.http.answer import Answer
from kvasir.entrypoints.http.errors import log_unexpected
from kvasir.entrypoints.http.field_names import renamed
from kvasir.entrypoints.http.generate import Sendable
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.responses.format import ResponseFormat
from kvasir.entrypoints.http.responses.schema import InputFields, InputTokensRequest, ResponsesRequest
from kvasir.entrypoints.http.responses.store import EventLog, Record, ResponseStore
from kvasir.entrypoints.http.responses.translate import (
    CHAT_NAMES,
    LOGPROBS,
    chat_request,
    check_refused,
    input_items,
    messages_of,
)
from kvasir.entrypoints.http.schema import ChatMessage
from kvasir.entrypoints.http.serving import Chat, Serving
from kvasir.entrypoints.http.source import Source, pieces
from kvasir.errors import UserError


class Background:
    """What the creator of a background response gets: its state, or its events from the first on."""

    def __init__(self, record: Record):
        self._record = record

    def source(self) -> Source:
        assert self._record.log is not None
        return self._record.log.reader(-1)

    async def whole(self) -> bytes:
        return self._record.body

    def failure(self, error: BaseException) -> bytes:
        return b""  # what fails here is the looking, not the response


class Responses:
    """The API's operations, without HTTP."""

    def __init__(self, serving: Serving, store: ResponseStore, inflight: Inflight):
        self._serving = serving
        self.store = store
        self._inflight = inflight

    async def create(self, request: ResponsesRequest, request_id: str) -> Sendable:
        stored = request.store is not False and self.store.enabled
        if request.background and not stored:
            raise UserError(
                "background needs store=true, and a server that stores (--responses-store-bytes).", param="background"
            )
        items, messages = self._conversation(request)
        with renamed(CHAT_NAMES):
            chat = await self._serving.start_chat(chat_request(request, messages), request_id)
        if request.include is not None and LOGPROBS in request.include and chat.has_structure:
            raise UserError(
                "logprobs are available where no parser divides the answer: leave out tools, or ask a server without "
                "--reasoning-parser.",
                param="include",
            )
        fmt = ResponseFormat(_head(request, chat, stored), chat.stream.usage, self._count_tokens)
        answer = Answer(chat.stream, fmt)
        if not stored:
            return answer
        record = Record(fmt, items, messages, EventLog() if request.background else None)

        def keep(body: dict[str, Any]) -> None:
            record.set_final(body)
            self.store.put(record)

        fmt.on_final = keep
        return self._in_background(answer, fmt, record) if request.background else answer

    def _in_background(self, answer: Answer, fmt: ResponseFormat, record: Record) -> Background:
        log = record.log
        assert log is not None
        fmt.set_queued()
        log.append(fmt.created() + fmt.queued())
        self.store.put(record)

        async def run() -> None:
            try:
                async for piece in pieces(answer.source()):
                    log.append(piece)
            except asyncio.CancelledError:
                fmt.cancel()
            except Exception as e:
                log_unexpected(e, record.response_id)
                log.append(answer.failure(e))
            finally:
                log.close()

        record.task = self._inflight.start(run())
        return Background(record)

    async def count_input_tokens(self, request: InputTokensRequest) -> dict[str, Any]:
        _, messages = self._conversation(request)
        with renamed(CHAT_NAMES):
            num_tokens = await self._serving.count_prompt(chat_request(request, messages))
        return {"object": "response.input_tokens", "input_tokens": num_tokens}

    def _conversation(self, request: InputFields) -> tuple[list[dict[str, Any]], list[ChatMessage]]:
        """The input's items, and all messages up to them."""
        check_refused(request)
        items = input_items(request.input)
        messages = messages_of(items, "input")
        if request.previous_response_id is None:
            return items, messages
        previous = self.store.get(request.previous_response_id)
        if previous.is_running:
            raise UserError(
                f"response {request.previous_response_id!r:.100} is not complete yet; wait for it.",
                param="previous_response_id",
            )
        return items, [*previous.messages, *messages_of(previous.output_items(), "output"), *messages]

    def _count_tokens(self, text: str) -> int:
        return len(self._serving.renderer.tokenizer.encode(text, add_special_tokens=False))


def _head(request: ResponsesRequest, chat: Chat, stored: bool) -> dict[str, Any]:
    """The fields that no event changes. The id is made here and not from the request's: it opens the store."""
    return {
        "id": f"resp_{uuid.uuid4().hex}",
        "object": "response",
        "created_at": int(time.time()),
        "model": chat.model,
        "background": bool(request.background),
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "max_tool_calls": request.max_tool_calls,
        "metadata": request.metadata or {},
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "previous_response_id": request.previous_response_id,
        "reasoning": {"effort": request.reasoning.effort if request.reasoning else None, "summary": None},
        "service_tier": "default",
        "store": stored,
        "temperature": chat.params.temperature,
        "text": {"format": (request.text and request.text.format) or {"type": "text"}},
        "tool_choice": request.tool_choice or "auto",
        "tools": request.tools or [],
        "top_logprobs": request.top_logprobs or 0,
        "top_p": chat.params.top_p,
        "truncation": request.truncation or "disabled",
        "user": request.user,
    }
