"""Frames over sockets: however the bytes are cut, the same frames come out."""

import asyncio
import random
import socket

import pytest

from kvasir.utils import frames


@pytest.mark.parametrize("seed", range(20))
async def test_any_cut_gives_the_same_frames(seed: int) -> None:
    rng = random.Random(seed)
    sent = [rng.randbytes(rng.choice((1, 3, 17, 300, 70_000))) for _ in range(rng.randrange(1, 12))]
    stream = b"".join(map(frames.pack, sent))
    protocol, found, at = frames.FrameProtocol(), [], 0
    while at < len(stream):
        size = rng.choice((1, 2, 5, 100, 50_000))
        protocol.data_received(stream[at : at + size])
        at += size
        if rng.random() < 0.3 and protocol._frames:
            found += await protocol.receive() or []
    protocol.connection_lost(None)
    while (more := await protocol.receive()) is not None:
        found += more
    assert found == sent


async def test_a_reader_is_woken_and_hears_of_the_end() -> None:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_unix_connection(frames.FrameProtocol, sock=ours)
    waiting = asyncio.create_task(protocol.receive())
    await asyncio.sleep(0)
    frames.send(theirs, b"hello")
    assert await asyncio.wait_for(waiting, 5) == [b"hello"]
    frames.send(theirs, b"half")
    theirs.sendall(b"\x10\x00")  # a frame that never comes
    theirs.close()
    assert await asyncio.wait_for(protocol.receive(), 5) == [b"half"]
    assert await asyncio.wait_for(protocol.receive(), 5) is None
    transport.close()


async def test_what_is_no_frame_is_an_error() -> None:
    protocol = frames.FrameProtocol()
    protocol.data_received(frames.pack(b"good") + b"\xff\xff\xff\xff")
    assert await protocol.receive() == [b"good"]
    with pytest.raises(ConnectionError, match="4294967295 bytes"):
        await protocol.receive()
