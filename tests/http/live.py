"""A real uvicorn on a free port, in a thread, over a FakeEngine."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from kvasir.entrypoints.http.app import build_app
from kvasir.entrypoints.http.listener import bind
from kvasir.entrypoints.http.protocol import BoundedHttpProtocol
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.observability import Metrics
from tests.http.fake_engine import FakeEngine

# One for all tests: making a client reads the system's certificates, which takes longer than most tests.
CLIENT = httpx.Client(verify=False, trust_env=False)


class LiveServer:
    def __init__(self, engine: FakeEngine, port: int, loop: asyncio.AbstractEventLoop, app: Any, server: Any):
        self.engine, self.port, self.loop, self.app, self.server = engine, port, loop, app, server
        self.url = f"http://127.0.0.1:{port}"

    def on_loop(self, fn: Callable[[], Any]) -> Any:
        """Runs `fn` on the server's loop and returns what it returns."""

        async def call() -> Any:
            return fn()

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(5)


@contextmanager
def serving(
    engine: FakeEngine,
    settings: ServerSettings | None = None,
    protocol: Any = BoundedHttpProtocol,
    send_buffer: int | None = None,
) -> Iterator[LiveServer]:
    """`send_buffer`: bytes that the kernel keeps for a client that does not read; megabytes by itself."""
    metrics = Metrics(engine.served_model_name[0])
    app = build_app(engine, settings, metrics)  # type: ignore[arg-type]
    with running(app, engine, protocol, send_buffer) as live:
        yield live


@contextmanager
def running(
    app: Any, engine: FakeEngine, protocol: Any = BoundedHttpProtocol, send_buffer: int | None = None
) -> Iterator[LiveServer]:
    """Any app, with what works beside it; `engine` is for the tests to look at."""
    sock = bind("127.0.0.1", 0, None)
    if send_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", loop="asyncio", http=protocol, lifespan="off"))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.01)
    live = LiveServer(engine, sock.getsockname()[1], loop, app, server)
    for worker in app.state.workers:
        live.on_loop(worker.start)
    try:
        yield live
    finally:
        for worker in app.state.workers:
            asyncio.run_coroutine_threadsafe(worker.stop(), loop).result(10)
        server.should_exit = True
        server.force_exit = True
        thread.join(5)
        loop.close()
        sock.close()
