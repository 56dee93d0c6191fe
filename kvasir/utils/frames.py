"""Length-prefixed frames over a stream socket, for threads and for an event loop."""

import asyncio
import socket
import struct

_HEADER = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 30
"""A broken peer cannot make us allocate more than this."""


def pack(payload: bytes) -> bytes:
    return _HEADER.pack(len(payload)) + payload


def _length(header: bytes) -> int:
    (length,) = _HEADER.unpack(header)
    if not 0 < length <= MAX_FRAME_BYTES:
        raise ConnectionError(f"frame of {length} bytes; the bound is {MAX_FRAME_BYTES}")
    return length


def send(sock: socket.socket, payload: bytes) -> None:
    sock.sendall(pack(payload))


def receive(sock: socket.socket) -> bytes | None:
    """The next frame, or None when the peer has closed."""
    header = _receive_exactly(sock, _HEADER.size)
    return None if header is None else _receive_exactly(sock, _length(header))


def _receive_exactly(sock: socket.socket, size: int) -> bytes | None:
    buffer = bytearray(size)
    view, at = memoryview(buffer), 0
    while at < size:
        try:
            count = sock.recv_into(view[at:])
        except ConnectionResetError:
            return None
        if count == 0:
            return None
        at += count
    return bytes(buffer)


class FrameProtocol(asyncio.Protocol):
    """Frames for an event loop: all that have come are taken at once."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []  # what was read and is not a whole frame yet
        self._missing = _HEADER.size  # bytes until it may be one
        self._frames: list[bytes] = []
        self._closed = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def receive(self) -> list[bytes] | None:
        """Every frame since the last call, at least one; None when the peer has closed.

        Raises:
            ConnectionError: what came is no frame.
        """
        while not self._frames and not self._closed:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._frames:
            frames, self._frames = self._frames, []
            return frames
        if self._error is not None:
            raise self._error
        return None

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        self._missing -= len(data)
        if self._missing > 0:  # the middle of a long frame: joined once, when it is whole
            return
        buffer = b"".join(self._parts)
        at, size = 0, len(buffer)
        try:
            while size - at >= _HEADER.size:
                end = at + _HEADER.size + _length(buffer[at : at + _HEADER.size])
                if end > size:
                    break
                self._frames.append(buffer[at + _HEADER.size : end])
                at = end
            rest = size - at
            needed = _HEADER.size if rest < _HEADER.size else _HEADER.size + _length(buffer[at : at + _HEADER.size])
        except ConnectionError as error:
            self._error = error
            self.connection_lost(error)
            return
        self._parts, self._missing = [buffer[at:]] if rest else [], needed - rest
        if self._frames:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
