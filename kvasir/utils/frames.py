"""Length-prefixed frames over a stream socket, for threads and for asyncio."""

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


async def receive_async(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame, or None when the peer has closed."""
    try:
        return await reader.readexactly(_length(await reader.readexactly(_HEADER.size)))
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None
