"""One HTTP answer being sent: as JSON, or as a stream whose headers wait a little for its first piece."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.types import Send

_JSON_HEADERS = ((b"content-type", b"application/json"),)
SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold tokens back
)


KEEP_ALIVE = b": waiting\n\n"
"""A comment, which clients pass over: proxies cut off a stream that says nothing while its prompt is computed."""
KEEP_ALIVE_S = 10.0


class Reply:
    """Knows whether its headers are out, for then an error must go into the stream."""

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
                await self._start(SSE_HEADERS)
                while not first.done():
                    await self._write(KEEP_ALIVE)
                    await asyncio.wait((first,), timeout=KEEP_ALIVE_S)
                await self._write(first.result())
            finally:
                if not first.done():
                    first.cancel()
                    await asyncio.wait((first,))
            async for piece in lines:
                await self._write(piece)
        await self._send({"type": "http.response.body", "body": b""})

    async def finish_with(self, last: bytes) -> None:
        """Ends a stream that failed."""
        await self._send({"type": "http.response.body", "body": last})

    async def _start(self, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    async def _write(self, piece: bytes) -> None:
        """Waits while the client's socket is full; the engine merges tokens meanwhile."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
