"""The two routes that generate: ASGI in, `Answer` out."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.types import Receive, Scope, Send

from kvasir.entrypoints.http.body import decode, read_body
from kvasir.entrypoints.http.errors import ClientGone, error_body, error_response, log_unexpected
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.render import error_line
from kvasir.entrypoints.http.schema import SamplingFields
from kvasir.entrypoints.http.serving import Answer
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.logger import get_logger
from kvasir.observability import Metrics

logger = get_logger(__name__)

R = TypeVar("R", bound=SamplingFields)

_JSON_HEADERS = ((b"content-type", b"application/json"),)
_SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold tokens back
)


class GenerateRoute:
    """An ASGI app for one route: `make` turns a checked request into an `Answer`."""

    def __init__(
        self,
        request_cls: type[R],
        make: Callable[[R, str], Awaitable[Answer]],
        settings: ServerSettings,
        inflight: Inflight,
        metrics: Metrics | None,
    ):
        self._metrics = metrics
        self._cls = request_cls
        self._make = make
        self._settings = settings
        self._inflight = inflight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = _Reply(send, self._settings.headers_wait_s)
        request_id: str = scope["kvasir.request_id"]
        try:
            self._inflight.check_open()
            body = await read_body(scope, receive, self._settings.max_body_bytes, self._settings.body_timeout_s)
            await self._inflight.run(receive, self._answer(body, request_id, reply))
        except ClientGone:
            logger.debug("request %s: the client hung up", request_id)
            if self._metrics is not None:
                self._metrics.on_hang_up()
        except Exception as e:
            log_unexpected(e, request_id)
            if reply.started:
                await reply.finish_with(e)
            else:
                await error_response(e)(scope, receive, send)

    async def _answer(self, body: bytes, request_id: str, reply: "_Reply") -> None:
        request = decode(body, self._cls)
        answer = await self._make(request, request_id)
        if self._settings.log_requests:
            logger.info(
                "request %s: stream=%s n=%s max_tokens=%s", request_id, request.stream, request.n, request.max_tokens
            )
        if request.stream:
            await reply.stream(answer.lines())
        else:
            await reply.json(await answer.whole())


class _Reply:
    """Sends one answer; knows whether its headers are out, for then an error must go into the stream."""

    def __init__(self, send: Send, headers_wait_s: float):
        self._send = send
        self._headers_wait_s = headers_wait_s
        self.started = False

    async def json(self, body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self._start((*_JSON_HEADERS, length))
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, lines: AsyncGenerator[bytes]) -> None:
        async with aclosing(lines):
            first = asyncio.ensure_future(anext(lines))
            try:
                # A refusal by the engine comes before the first output and deserves its own status; but a request
                # that waits in a queue must not look like a dead server, so headers do not wait for ever.
                await asyncio.wait((first,), timeout=self._headers_wait_s)
                if first.done():
                    first.result()
                await self._start(_SSE_HEADERS)
                await self._write(await first)
            finally:
                if not first.done():
                    first.cancel()
                    await asyncio.wait((first,))
            async for piece in lines:
                await self._write(piece)
        await self._send({"type": "http.response.body", "body": b""})

    async def finish_with(self, error: Exception) -> None:
        await self._send({"type": "http.response.body", "body": error_line(error_body(error))})

    async def _start(self, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    async def _write(self, piece: bytes) -> None:
        """Waits while the client's socket is full; the engine merges tokens meanwhile."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
