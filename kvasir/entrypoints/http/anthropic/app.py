"""The routes of the Messages API."""

import uuid
from typing import Any

from starlette.routing import Route

from kvasir.entrypoints.http.answer import Answer
from kvasir.entrypoints.http.anthropic.format import MessageFormat
from kvasir.entrypoints.http.anthropic.schema import CountTokensRequest, MessagesRequest
from kvasir.entrypoints.http.anthropic.translate import CHAT_NAMES, chat_request
from kvasir.entrypoints.http.error_shapes import MESSAGES_PATH, MessagesErrors
from kvasir.entrypoints.http.field_names import renamed
from kvasir.entrypoints.http.generate import GenerateRoute
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.routes import JsonRoute
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.observability import Metrics


class Messages:
    """The API's operations, without HTTP."""

    def __init__(self, serving: Serving):
        self._serving = serving

    async def create(self, request: MessagesRequest, request_id: str) -> Answer:
        with renamed(CHAT_NAMES):
            # A max_tokens larger than the context is usual here, and the answer's stop_reason can say what happened.
            chat = await self._serving.start_chat(chat_request(request), request_id, lenient=True)
        clipped = request.max_tokens != chat.params.max_tokens
        usage = chat.stream.usage
        return Answer(chat.stream, MessageFormat(f"msg_{uuid.uuid4().hex}", request_id, chat.model, usage, clipped))

    async def count_tokens(self, request: CountTokensRequest) -> dict[str, Any]:
        with renamed(CHAT_NAMES):
            return {"input_tokens": await self._serving.count_prompt(chat_request(request))}


def messages_routes(
    serving: Serving, settings: ServerSettings, inflight: Inflight, metrics: Metrics | None
) -> list[Route]:
    messages = Messages(serving)
    create = GenerateRoute(MessagesRequest, messages.create, settings, inflight, metrics, MessagesErrors)
    count = JsonRoute(CountTokensRequest, messages.count_tokens, settings, MessagesErrors)
    return [
        Route(MESSAGES_PATH, create, methods=["POST"]),
        Route(MESSAGES_PATH + "/count_tokens", count, methods=["POST"]),
    ]
