"""One of several processes that answer HTTP over one engine: `python -m kvasir.entrypoints.http.api_process FD FD`.

The first descriptor is a socket to the hub, the second the one to listen on. The hub's first frame says what to serve,
its second that the engine is ready; in between the process reads its imports and the tokenizer, as the cores load their
weights. When the hub closes the socket the engine is gone, and so is the process.
"""

import asyncio
import gc
import signal
import socket
import sys
from typing import Any

import msgspec

from kvasir.config import KvasirConfig, ServerArgs
from kvasir.messages import wire
from kvasir.utils import frames


class FrontSettings(msgspec.Struct):
    """The first frame.

    Attributes:
        server: the server's options by name.
        index, count: which of how many fronts this is.
    """

    config: KvasirConfig
    server: dict[str, Any]
    index: int
    count: int

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, frame: bytes) -> "FrontSettings":
        return msgspec.json.decode(frame, type=cls)


def serve_front(sock: socket.socket, place: socket.socket) -> int:
    """Serves until SIGTERM, or until the hub is gone; returns the exit code."""
    frame = frames.receive(sock)
    if frame is None:
        return 0
    settings = FrontSettings.decode(frame)
    args = ServerArgs(**settings.server)

    import uvloop

    from kvasir.assembly.front import load_tokenizer, make_front
    from kvasir.engine.remote_core import RemoteCore
    from kvasir.entrypoints.http.listener import listen
    from kvasir.entrypoints.http.server import front_of, settings_of
    from kvasir.entrypoints.http.tls import make_tls

    tokenizer = load_tokenizer(settings.config)
    frame = frames.receive(sock)
    if frame is None:
        return 0
    core = RemoteCore(sock, settings.index)
    engine = make_front(settings.config, wire.decode(frame), core, tokenizer, settings.count)
    http = settings_of(args, settings.config.observability)
    server = front_of(engine, http, place, args, make_tls(args))
    listen(place)
    gc.collect()
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(server.run())


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's business
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    return serve_front(socket.socket(fileno=int(sys.argv[1])), socket.socket(fileno=int(sys.argv[2])))


if __name__ == "__main__":
    sys.exit(main())
