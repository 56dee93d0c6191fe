"""SEAM: the front's hold on an engine core, in this process or in another one.

`InProcessClient` is driven by its caller, step by step (LLMEngine). `ProcessClient` owns a core
process and is driven by the event loop (AsyncLLM).
"""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvasir.engine.connection import CoreConnection
from kvasir.engine.core import EngineCore
from kvasir.errors import ConfigError, EngineDeadError, EngineError
from kvasir.logger import get_logger
from kvasir.messages import Control, EngineCoreOutput, EngineCoreRequest, Ready, Reply, wire
from kvasir.utils import frames
from kvasir.utils.heartbeat import Heartbeat

logger = get_logger(__name__)

STACKS_SIGNAL = signal.SIGUSR2
"""A core that gets it writes its stacks to the log and goes on."""
_GONE_S = 10.0  # for a killed process to be gone


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

    def call(self, name: str, /, **args: Any) -> Any:
        reply = self._core.control(Control(name, args, 1))
        if reply.error is not None:
            raise EngineError(reply.error)
        return reply.value

    def close(self) -> None:
        self._core.shutdown()


class ProcessClient(CoreConnection):
    """Spawns a core process and talks to it over a Unix socket pair.

    Args:
        module: run as `python -m module FD HEARTBEAT_FD [arguments]`.
        num_slots: rows that the heartbeat has room for.
        arguments: more of them, for the module.
        environment: variables that this core has beside ours.
    """

    def __init__(self, module: str, num_slots: int, *arguments: str, environment: Mapping[str, str] | None = None):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        super().__init__(ours)
        self.heartbeat, heartbeat_fd = Heartbeat.create(num_slots)
        fds = (theirs.fileno(), heartbeat_fd)
        command = [sys.executable, "-m", module, *map(str, fds), *arguments]
        self.process = subprocess.Popen(
            command,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, **environment} if environment else None,
        )
        theirs.close()
        os.close(heartbeat_fd)

    def configure(self, settings: bytes) -> None:
        """Sends the configuration frame; the core builds its engine from it."""
        with contextlib.suppress(OSError):  # it may be dead already; whoever waits for it will hear
            frames.send(self._sock, settings)

    def poll_ready(self, timeout_s: float) -> Ready | None:
        """Waits up to `timeout_s` for the core to have loaded its model; None when it has not.

        Raises:
            ConfigError: the core refused its configuration (the text is the core's).
            EngineDeadError: it died.
        """
        readable = bool(select.select([self._sock], [], [], timeout_s)[0])
        if not readable and not self.has_died():
            return None
        frame = frames.receive(self._sock) if readable else None
        if frame is None:
            code = self.wait_exit(10)
            raise EngineDeadError(
                f"The engine core ended with exit code {code} before it was ready; see the log above."
            )
        message = wire.decode(frame)
        if isinstance(message, Reply):
            self.wait_exit(10)
            raise ConfigError(message.error or "the engine core could not start")
        return message

    def has_died(self) -> bool:
        """Whether the process has ended; its socket may be held open yet by children of its own."""
        return self.process.poll() is not None

    def is_stopped(self) -> bool:
        """Whether somebody has stopped the process (SIGSTOP, a debugger), so that its silence is not its own."""
        try:
            stat = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] in ("T", "t")

    def dump_stacks(self) -> None:
        """Asks the core to write the Python stack of each thread to the log."""
        self.process.send_signal(STACKS_SIGNAL)

    def wait_exit(self, timeout_s: float = 5.0) -> int | None:
        """The exit code of a core that has closed its socket; it is killed if it lingers.

        None: it does not even go then, as a process inside a driver's call may not; nobody waits for it further.
        """
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.process.returncode

    def close(self, timeout_s: float = 10.0) -> None:
        """Closes the socket, which ends the core; kills it if it does not end in time."""
        with contextlib.suppress(OSError):  # the core may have closed its end already
            self._sock.shutdown(socket.SHUT_RDWR)  # at once; closing the writer would wait for the event loop
        self.close_socket()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            logger.warning("the engine core did not end within %.0f s and is killed", timeout_s)
            self.kill()

    def discard(self) -> None:
        """Lets go of a core; one that is not dead is killed, and not waited for."""
        self.process.kill()
        self.close_socket()
        self.heartbeat.close()

    def kill(self) -> None:
        self.process.kill()
        try:
            self.process.wait(_GONE_S)
        except subprocess.TimeoutExpired:
            logger.error("the engine core (process %d) was killed and is still there", self.process.pid)
