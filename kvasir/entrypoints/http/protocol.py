"""uvicorn's HTTP protocol with bounds of its own: bytes and time of a head, time of a stuck write, connections. It also
offers direct writes.
"""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kvasir.entrypoints.http.direct import EXTENSION

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 128
HEAD_TIMEOUT_S = 20.0
"""From the connection, or the first byte of a further request on it, to the end of the head."""
WRITE_TIMEOUT_S = 120.0
"""A client that has taken nothing for so long is gone, whatever its socket says."""
_FILES_FOR_OTHERS = 128


def max_connections() -> int:
    """What the limit on open files leaves; beyond it, `accept` itself would fail for everybody."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - _FILES_FOR_OTHERS, 64) if soft != resource.RLIM_INFINITY else 65_536


MAX_CONNECTIONS = max_connections()


class BoundedHttpProtocol(HttpToolsProtocol):
    """Raising inside a parser callback makes uvicorn answer 400 and close the connection."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)

    # ---- the head

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        if self._head_timer is None:
            self._await_head()
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError(f"a request may have {MAX_HEADERS} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()  # makes the task that answers; it has not run yet
        if self.scope["method"] != "HEAD":  # answers to it have no body
            writer: Any = _ChunkWriter(self.transport, self.flow)
            self.scope.setdefault("extensions", {})[EXTENSION] = writer

    def _count(self, num_bytes: int) -> None:
        self._head_bytes += num_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(f"the head of a request may have {MAX_HEAD_BYTES} bytes")

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    # ---- a client that does not read

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(WRITE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._write_timer = None


class _ChunkWriter:
    """A DirectWriter: bodies without a length are sent in HTTP chunks, whose frame it adds."""

    __slots__ = ("_flow", "_transport", "_write")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl):
        self._transport = transport
        self._flow = flow
        self._write = transport.write

    def is_ready(self) -> bool:
        return not self._flow.write_paused and not self._transport.is_closing()

    def write(self, piece: bytes) -> None:
        self._write(b"%x\r\n%b\r\n" % (len(piece), piece))
