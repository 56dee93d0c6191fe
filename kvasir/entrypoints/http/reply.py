"""One HTTP answer being sent: as JSON, or as a stream whose headers wait a little for its first piece."""

import asyncio

from starlette.types import Scope, Send

from kvasir.entrypoints.http.direct import DirectWriter, direct_writer
from kvasir.entrypoints.http.source import Source

_JSON_HEADERS = ((b"content-type", b"application/json"),)
SSE_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold tokens back
)


KEEP_ALIVE = b": waiting\n\n"
"""A comment, which clients pass over: proxies cut off a stream that says nothing, while its prompt is computed, while
the engine is started again, or while the model writes what is not shown."""
KEEP_ALIVE_S = 10.0
"""How often is looked whether something was sent, so a stream is silent for less than twice as long."""


class Reply:
    """Knows whether its headers are out, for then an error must go into the stream."""

    def __init__(self, scope: Scope, send: Send, headers_wait_s: float):
        self._send = send
        self._direct: DirectWriter | None = direct_writer(scope)
        self._headers_wait_s = headers_wait_s
        self._news = asyncio.Event()
        self._source: Source | None = None
        self._pumping = True
        self._silent = True  # since the last look
        self._failure: Exception | None = None
        self.started = False

    async def json(self, body: bytes) -> None:
        length = (b"content-length", str(len(body)).encode())
        await self._start((*_JSON_HEADERS, length))
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, source: Source) -> None:
        """Sends all of it. While the client reads, pieces are written where the news of them comes, without waking
        the task that waits here; when its socket is full, this task waits for that, and then sends what has come."""
        self._source = source
        try:
            await source.start(self._on_news)
            await self._write(await self._first_piece(source))
            look_at = asyncio.get_running_loop().time() + KEEP_ALIVE_S
            while not source.finished:
                self._pumping = self._direct is None
                is_news = await self._news_before(look_at)
                self._pumping = True  # from here on news must not overtake what is sent here
                if self._failure is not None:
                    raise self._failure
                if not is_news:
                    look_at += KEEP_ALIVE_S
                    await self._look()
                elif not source.finished:
                    await self._write(source.take())
        finally:
            self._pumping = True
            source.close()
        await self._send({"type": "http.response.body", "body": b""})

    async def _news_before(self, look_at: float) -> bool:
        try:
            async with asyncio.timeout_at(look_at):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True

    async def _look(self) -> None:
        if self._silent:
            await self._write(KEEP_ALIVE)
        self._silent = True

    async def _first_piece(self, source: Source) -> bytes:
        """Sends the headers as well. A refusal by the engine comes before the first piece and deserves its own status;
        but a request that waits in a queue must not look like a dead server, so headers do not wait for ever."""
        wait_s, piece = self._headers_wait_s, b""
        while not piece and not source.finished:
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
                self._news.clear()
                piece = source.take()
            except TimeoutError:
                await self._start(SSE_HEADERS)
                await self._write(KEEP_ALIVE)
                wait_s = KEEP_ALIVE_S
        await self._start(SSE_HEADERS)
        return piece

    def _on_news(self) -> None:
        direct, source = self._direct, self._source
        if self._pumping or direct is None or source is None or not direct.is_ready():
            self._news.set()
            return
        if source.finished:  # somebody else's news came first, and all was taken
            return
        try:
            piece = source.take()
        except Exception as error:
            self._failure = error
            self._news.set()
            return
        if piece:
            self._silent = False
            direct.write(piece)
        if source.finished:
            self._news.set()

    async def finish_with(self, last: bytes) -> None:
        """Ends a stream that failed."""
        await self._send({"type": "http.response.body", "body": last})

    async def _start(self, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})

    async def _write(self, piece: bytes) -> None:
        """Waits while the client's socket is full; the engine merges tokens meanwhile."""
        if piece:
            self._silent = False
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
