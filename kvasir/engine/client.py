"""SEAM: the front's hold on an engine core, in this process or in another one.

`InProcessClient` is driven by its caller, step by step (LLMEngine). `ProcessClient` owns a core
process and is driven by the event loop (AsyncLLM).
"""

import asyncio
import contextlib
import itertools
import socket
import subprocess
import sys
from typing import Any

from kvasir.engine.core import EngineCore
from kvasir.errors import ConfigError, EngineDeadError, EngineError
from kvasir.logger import get_logger
from kvasir.messages import Control, EngineCoreOutput, EngineCoreRequest, Ready, Reply, wire
from kvasir.utils import frames

logger = get_logger(__name__)


class InProcessClient:
    """Calls a core directly."""

    def __init__(self, core: EngineCore):
        self._core = core
        self.ready = core.ready

    def add_request(self, request: EngineCoreRequest) -> None:
        self._core.add_request(request)

    def abort_requests(self, request_ids: list[str]) -> None:
        if request_ids:
            self._core.abort_requests(request_ids)

    def step(self) -> list[EngineCoreOutput]:
        return list(self._core.step().values())

    def call(self, name: str, **args: Any) -> Any:
        reply = self._core.control(Control(name, args, 1))
        if reply.error is not None:
            raise EngineError(reply.error)
        return reply.value

    def close(self) -> None:
        self._core.shutdown()


class ProcessClient:
    """Spawns a core process and talks to it over a Unix socket pair.

    Args:
        module: run as `python -m module FD`.
        settings: the configuration frame for it.
    """

    def __init__(self, module: str, settings: bytes):
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        command = [sys.executable, "-m", module, str(theirs.fileno())]
        self.process = subprocess.Popen(
            command, pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        frames.send(self._sock, settings)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._call_ids = itertools.count(1)

    def wait_ready(self, timeout_s: float) -> Ready:
        """Blocks until the core has loaded its model.

        Raises:
            ConfigError: the core refused its configuration (the text is the core's).
            EngineDeadError: it died or did not answer in time.
        """
        self._sock.settimeout(timeout_s)
        try:
            frame = frames.receive(self._sock)
        except TimeoutError:
            self.kill()
            raise EngineDeadError(f"The engine core was not ready within {timeout_s:.0f} s; it was stopped.") from None
        self._sock.settimeout(None)
        if frame is None:
            code = self.process.wait(10)
            raise EngineDeadError(
                f"The engine core ended with exit code {code} before it was ready; see the log above."
            )
        message = wire.decode(frame)
        if isinstance(message, Reply):
            self.process.wait(10)
            raise ConfigError(message.error or "the engine core could not start")
        return message

    async def connect(self) -> None:
        """Hands the socket to the running event loop."""
        self._sock.setblocking(False)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._sock, limit=1 << 20)

    async def receive(self) -> EngineCoreOutput | None:
        """The next output; None when the core is gone. Replies are handed to their callers on the way."""
        assert self._reader is not None
        while (frame := await frames.receive_async(self._reader)) is not None:
            message = wire.decode(frame)
            if not isinstance(message, Reply):
                return message
            waiting = self._calls.pop(message.call_id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(EngineDeadError("The engine core is gone."))
        self._calls.clear()
        return None

    def send(self, message: EngineCoreRequest | Control) -> None:
        assert self._writer is not None
        self._writer.write(frames.pack(wire.encode(message)))

    async def call(self, name: str, **args: Any) -> Any:
        """Raises EngineError with the core's words, EngineDeadError when it is gone."""
        call_id = next(self._call_ids)
        waiting = self._calls[call_id] = asyncio.get_running_loop().create_future()
        self.send(Control(name, args, call_id))
        reply = await waiting
        if reply.error is not None:
            raise EngineError(reply.error)
        return reply.value

    def wait_exit(self, timeout_s: float = 5.0) -> int:
        """The exit code of a core that has closed its socket; it is killed if it lingers."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def close(self, timeout_s: float = 10.0) -> None:
        """Closes the socket, which ends the core; kills it if it does not end in time."""
        with contextlib.suppress(OSError):  # the core may have closed its end already
            self._sock.shutdown(socket.SHUT_RDWR)  # at once; closing the writer would wait for the event loop
        if self._writer is not None:
            self._writer.close()
        else:
            self._sock.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning("the engine core did not end within %.0f s and is killed", timeout_s)
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
