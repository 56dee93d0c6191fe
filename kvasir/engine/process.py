"""The engine core in its own process: one socket to the front, two I/O threads, one loop.

The front spawns `python -m <module>` with one end of a Unix socket pair; the first frame it sends is
the resolved configuration, the first it gets back is Ready (or a Reply with an error).
"""

import queue
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

from kvasir.engine.core import EngineCore
from kvasir.errors import KvasirError
from kvasir.logger import get_logger
from kvasir.messages import Control, EngineCoreRequest, Reply, wire
from kvasir.utils import frames

logger = get_logger(__name__)

SHUTDOWN = "shutdown"


def run_core(fd: int, make_core: Callable[[bytes], EngineCore]) -> int:
    """Serves one front until it closes the socket or asks for shutdown; returns the exit code.

    Args:
        fd: this process's end of the socket pair.
        make_core: builds the engine from the configuration frame.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the front's business: it drains, then closes the socket
    sock = socket.socket(fileno=fd)
    settings = frames.receive(sock)
    if settings is None:
        return 1
    try:
        core = make_core(settings)
    except Exception as error:
        text = error.message if isinstance(error, KvasirError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, KvasirError):
            logger.exception("the engine core could not start")
        frames.send(sock, wire.encode(Reply(0, error=text)))
        return 1
    frames.send(sock, wire.encode(core.ready))
    try:
        CoreServer(core, sock).run()
    finally:
        core.shutdown()
    return 0


class CoreServer:
    """Feeds a core from a socket and sends what it says; the step never waits for either."""

    def __init__(self, core: EngineCore, sock: socket.socket):
        self._core = core
        self._sock = sock
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running = True

    def run(self) -> None:
        threading.Thread(target=self._read, name="kvasir-core-in", daemon=True).start()
        writer = threading.Thread(target=self._write, name="kvasir-core-out", daemon=True)
        writer.start()
        while self._running:
            self._take_messages(wait=not self._core.has_work and not self._core.use_quiet_moment())
            if not self._running:
                break
            for output in self._core.step().values():
                self._outbox.put(output)
        self._outbox.put(None)
        writer.join(timeout=5.0)

    def _take_messages(self, *, wait: bool) -> None:
        try:
            message = self._inbox.get(block=wait)
            while True:
                self._handle(message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _handle(self, message: Any) -> None:
        if isinstance(message, EngineCoreRequest):
            try:
                self._core.add_request(message)
            except Exception as error:
                self._core.reject(message, error)
        elif isinstance(message, Control) and message.name != SHUTDOWN:
            reply = self._core.control(message)
            if message.call_id:
                self._outbox.put(reply)
        else:  # shutdown, or None: the front is gone
            self._running = False

    def _read(self) -> None:
        while (frame := frames.receive(self._sock)) is not None:
            try:
                self._inbox.put(wire.decode(frame))
            except Exception:
                logger.exception("a frame from the front could not be read; the core stops")
                break
        self._inbox.put(None)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                frames.send(self._sock, wire.encode(message))
            except OSError:
                self._inbox.put(None)
                return
