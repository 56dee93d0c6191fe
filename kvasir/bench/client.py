"""A small HTTP/1.1 client for measuring: one object per connection, a time stamp per read, no work per token.

General clients cost more CPU per token than a fast server does, and would measure themselves.
"""

import asyncio
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools
import msgspec

from kvasir.errors import ConfigError

CONNECT_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    base: str
    tls: bool
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str, api_key: str | None = None, extra: tuple[tuple[str, str], ...] = ()) -> "Target":
        parts = urlsplit(url if "://" in url else "http://" + url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"--base-url is {url!r}: it must look like http://localhost:8000.")
        tls = parts.scheme == "https"
        key = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        base = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if tls else 80), base, tls, key + extra)

    def head(self, method: str, path: str, length: int) -> bytes:
        lines = [
            f"{method} {self.base}{path} HTTP/1.1",
            f"host: {self.host}:{self.port}",
            "content-type: application/json",
            "accept-encoding: identity",
            f"content-length: {length}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass
class Reply:
    """What came back. `reads` are (time, bytes of the body by then)."""

    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    reads: list[tuple[float, int]] = field(default_factory=list)
    started: float = 0.0
    ended: float = 0.0


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._reply = Reply()
        self._parser: Any = None
        self._keep = True

    @property
    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing() and self._keep

    async def ask(self, head: bytes, body: bytes, timeout_s: float) -> Reply:
        """Raises: OSError, TimeoutError, ValueError (the answer is no HTTP)."""
        assert self._transport is not None
        self._reply = reply = Reply()
        self._parser = httptools.HttpResponseParser(self)
        self._done = asyncio.get_running_loop().create_future()
        reply.started = time.perf_counter()
        self._transport.write(head + body)
        try:
            async with asyncio.timeout(timeout_s):
                await self._done
        except BaseException:
            self.close()
            raise
        reply.ended = reply.reads[-1][0] if reply.reads else time.perf_counter()
        return reply

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        before = len(self._reply.body)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as e:
            self._fail(ValueError(f"the answer is no HTTP: {e}"))
            self.close()
        if len(self._reply.body) > before:
            self._reply.reads.append((now, len(self._reply.body)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._keep = False
        self._fail(ConnectionError(f"the server closed the connection{f' ({exc})' if exc else ''}"))

    def _fail(self, error: Exception) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    # httptools

    def on_body(self, data: bytes) -> None:
        self._reply.body += data

    def on_headers_complete(self) -> None:
        self._reply.status = self._parser.get_status_code()

    def on_message_complete(self) -> None:
        self._keep = self._parser.should_keep_alive()
        loop = asyncio.get_running_loop()
        loop.call_soon(self._finish)  # after data_received has stamped the last read

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


class Client:
    """Requests over kept connections."""

    def __init__(self, target: Target, timeout_s: float):
        self._target = target
        self._timeout_s = timeout_s
        self._idle: list[Connection] = []
        self._tls = ssl.create_default_context() if target.tls else None

    async def ask(self, method: str, path: str, body: Any = None) -> Reply:
        """Raises: OSError, TimeoutError, ValueError."""
        raw = b"" if body is None else msgspec.json.encode(body)
        connection = await self._connection()
        reply = await connection.ask(self._target.head(method, path, len(raw)), raw, self._timeout_s)
        if connection.usable:
            self._idle.append(connection)
        else:
            connection.close()
        return reply

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, protocol = await loop.create_connection(Connection, self._target.host, self._target.port, ssl=self._tls)
        return protocol
