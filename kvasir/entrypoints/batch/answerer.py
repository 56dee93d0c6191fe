"""Answers one line, with the checks and the rendering of the server; what is wrong with it is said in its answer."""

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import msgspec

from kvasir.entrypoints.batch.lines import (
    BatchAnswer,
    BatchLine,
    BatchResponse,
    custom_id_of,
    decode_line,
    refused_line,
)
from kvasir.entrypoints.batch.urls import URLS, make_of, url_error
from kvasir.entrypoints.http.body import decode
from kvasir.entrypoints.http.errors import error_body, error_status, log_unexpected
from kvasir.entrypoints.http.schema import SamplingFields
from kvasir.entrypoints.http.serving import Serving
from kvasir.errors import EngineDeadError, QueueFullError, UserError

RETRY_S = 0.2
"""Pause before a line that found the queue full is tried again."""
_ORDERED = ("priority", "fair")
"""Scheduling policies that heed a request's priority; the others refuse it."""


class ServedModels(Protocol):
    """SEAM: the model that a request names, held while it is used."""

    def lease(self, name: str | None) -> AbstractAsyncContextManager[Serving]:
        """Raises NotFoundError for a name that is not here."""


class OneModel:
    """A server of a single model."""

    def __init__(self, serving: Serving):
        self._serving = serving

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncGenerator[Serving]:
        self._serving.check_model(name)
        yield self._serving


class LineAnswerer:
    """Bounds nothing: how many lines are in the engine at once is up to the caller.

    Args:
        priority: at least this number for every request, where the engine orders by it; larger ones come later.
    """

    def __init__(self, models: ServedModels, priority: int = 0):
        self._models = models
        self._priority = priority

    async def answer(self, line: bytes, answer_id: str, endpoint: str | None = None) -> BatchAnswer:
        """Whatever is wrong with the line is said in its answer.

        Args:
            endpoint: the only url that is allowed; None: all that make sense.

        Raises:
            EngineDeadError: nothing that follows can be answered either.
        """
        try:
            item = decode_line(line)
        except UserError as e:
            return refused_line(answer_id, custom_id_of(line), "invalid_request", e.message)
        request_id = uuid.uuid4().hex
        body: Any
        try:
            body, status = msgspec.Raw(await self._body(item, request_id, endpoint)), 200
        except EngineDeadError:
            raise
        except Exception as e:
            log_unexpected(e, item.custom_id)
            body, status = error_body(e), error_status(e)
        return BatchAnswer(answer_id, item.custom_id, BatchResponse(status, request_id, body), None)

    async def _body(self, item: BatchLine, request_id: str, endpoint: str | None) -> bytes:
        if endpoint is not None and item.url != endpoint:
            raise UserError(f"the batch is for {endpoint}, and this line asks {item.url:.200}.", param="url")
        if item.method.upper() != "POST":
            raise UserError(f"{item.method} is not available in a batch; use POST.", param="method")
        if item.url not in URLS:
            raise url_error(item.url, _model_of(item.body))
        request: SamplingFields = decode(bytes(item.body), URLS[item.url])
        if request.stream:
            raise UserError("stream is not available in a batch; leave it out.", param="stream")
        while True:
            try:
                return await self._ask(item.url, request, request_id)
            except QueueFullError:
                await asyncio.sleep(RETRY_S)

    async def _ask(self, url: str, request: SamplingFields, request_id: str) -> bytes:
        async with self._models.lease(request.model) as serving:
            if serving.engine.config.scheduler.scheduling_policy in _ORDERED:
                request.priority = max(request.priority or 0, self._priority)
            answer = await make_of(url, serving)(request, request_id)
            return await answer.whole()


class _Named(msgspec.Struct):
    model: str | None = None


def _model_of(body: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(body, type=_Named).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
