"""The engine core in its own process: one socket to the front, two I/O threads, one loop.

The front spawns `python -m <module>` with one end of a Unix socket pair and the heartbeat's memory; the first frame
it sends is the resolved configuration, the first it gets back is Ready (or a Reply with an error).
"""

import faulthandler
import logging
import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from kvasir.engine.client import STACKS_SIGNAL
from kvasir.engine.core import EngineCore
from kvasir.engine.supervisor.death import EXIT_DEVICE_FAULT
from kvasir.errors import KvasirError
from kvasir.logger import get_logger
from kvasir.messages import Control, EngineCoreRequest, Reply, wire
from kvasir.platforms import is_device_fault
from kvasir.utils import frames
from kvasir.utils.heartbeat import Heartbeat, Phase

logger = get_logger(__name__)

SHUTDOWN = "shutdown"
IDLE_BEAT_S = 1.0
ORPHAN_S = 60.0


def run_core(fd: int, heartbeat_fd: int, make_core: Callable[[bytes, Heartbeat], EngineCore]) -> int:
    """Serves one front until it closes the socket or asks for shutdown; returns the exit code.

    Args:
        fd: this process's end of the socket pair.
        heartbeat_fd: shared memory in which to say what is going on.
        make_core: builds the engine from the configuration frame.
    """
    for outside in (signal.SIGINT, signal.SIGTERM):  # the front's business: it drains, then closes the socket
        signal.signal(outside, signal.SIG_IGN)
    faulthandler.enable()  # a crash leaves its stacks in the log
    faulthandler.register(STACKS_SIGNAL, all_threads=True)
    heartbeat = Heartbeat.open(heartbeat_fd)
    sock = socket.socket(fileno=fd)
    settings = frames.receive(sock)
    if settings is None:
        return 1
    try:
        core = make_core(settings, heartbeat)
    except Exception as error:
        text = error.message if isinstance(error, KvasirError) else f"{type(error).__name__}: {error}"
        if not isinstance(error, KvasirError):
            logger.exception("the engine core could not start")
        frames.send(sock, wire.encode(Reply(0, error=text)))
        return 1
    frames.send(sock, wire.encode(core.ready))
    try:
        CoreServer(core, sock, heartbeat).run()
    except Exception as error:
        if not is_device_fault(error):
            raise
        logger.error("%s", error)
        logging.shutdown()
        os._exit(EXIT_DEVICE_FAULT)  # nothing that touches the device could still be done in order
    core.shutdown()
    return 0


class CoreServer:
    """Feeds a core from a socket and sends what it says; the step never waits for either."""

    def __init__(self, core: EngineCore, sock: socket.socket, heartbeat: Heartbeat):
        self._core = core
        self._sock = sock
        self._heartbeat = heartbeat
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running = True

    def run(self) -> None:
        threading.Thread(target=self._read, name="kvasir-core-in", daemon=True).start()
        writer = threading.Thread(target=self._write, name="kvasir-core-out", daemon=True)
        writer.start()
        try:
            while self._running:
                self._take_messages(wait=not self._core.has_work and not self._use_quiet_moment())
                if not self._running:
                    break
                for output in self._core.step().values():
                    self._outbox.put(output)
        finally:  # what was computed is said, whatever ends the loop
            self._outbox.put(None)
            writer.join(timeout=5.0)

    def _take_messages(self, *, wait: bool) -> None:
        try:
            message = self._wait_for_message() if wait else self._inbox.get_nowait()
            while True:
                self._handle(message)
                message = self._inbox.get_nowait()
        except queue.Empty:
            return

    def _use_quiet_moment(self) -> bool:
        """Work that can wait for a moment like this one (graphs that are captured late) has a deadline of its own."""
        self._heartbeat.beat(Phase.CAPTURE)
        more = self._core.use_quiet_moment()
        self._heartbeat.beat(Phase.STEP)
        return more

    def _wait_for_message(self) -> Any:
        self._core.check_idle()
        self._heartbeat.beat(Phase.IDLE)
        while True:
            try:
                message = self._inbox.get(timeout=IDLE_BEAT_S)
            except queue.Empty:
                self._heartbeat.beat()
                continue
            self._heartbeat.beat(Phase.STEP)
            return message

    def _handle(self, message: Any) -> None:
        if isinstance(message, EngineCoreRequest):
            try:
                self._core.add_request(message)
            except Exception as error:
                self._core.reject(message, error)
        elif isinstance(message, Control) and message.name != SHUTDOWN:
            self._heartbeat.beat(Phase.CALL)
            reply = self._core.control(message)
            self._heartbeat.beat(Phase.STEP)
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
        time.sleep(ORPHAN_S)  # the loop ends with the step it is in; one that hangs must not outlive its front
        logger.error("the front is gone and the step does not end: the core leaves")
        os._exit(1)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                frames.send(self._sock, wire.encode(message))
            except OSError:
                self._inbox.put(None)
                return
