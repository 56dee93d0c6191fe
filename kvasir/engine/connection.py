"""One end of a socket to whoever runs the engine core: requests and calls go out, steps come in."""

import asyncio
import contextlib
import itertools
import socket
from typing import Any

from kvasir.errors import EngineDeadError, EngineError
from kvasir.messages import Control, EngineCoreOutput, EngineCoreRequest, Reply, wire
from kvasir.utils import frames


class CoreConnection:
    """Driven by the event loop once `connect` was awaited.

    Attributes:
        is_gone: the other end has closed.
    """

    def __init__(self, sock: socket.socket):
        self._sock = sock
        self.is_gone = False
        self._reader = frames.FrameProtocol()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writer: asyncio.Transport | None = None
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._call_ids = itertools.count(1)

    async def connect(self) -> None:
        """Hands the socket to the running event loop."""
        self._sock.setblocking(False)
        self._loop = loop = asyncio.get_running_loop()
        self._writer, _ = await loop.create_unix_connection(lambda: self._reader, sock=self._sock)

    async def receive(self) -> list[EngineCoreOutput] | None:
        """All that has come since the last call: one or more steps. None when the other end is gone.

        Replies are handed to their callers on the way.
        """
        while (received := await self._reader.receive()) is not None:
            steps: list[EngineCoreOutput] = []
            for frame in received:
                message = wire.decode(frame)
                if isinstance(message, Reply):
                    self._hand_over(message)
                else:
                    steps.append(message)
            if steps:
                return steps
        self.is_gone = True
        for waiting in self._calls.values():
            if not waiting.done():
                waiting.set_exception(EngineDeadError("The engine core is gone."))
        self._calls.clear()
        return None

    def _hand_over(self, reply: Reply) -> None:
        waiting = self._calls.pop(reply.call_id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def send(self, message: EngineCoreRequest | Control) -> None:
        """Does nothing once the other end is gone."""
        assert self._writer is not None
        if not (self.is_gone or self._writer.is_closing()):  # uvloop raises where it has closed, before we read so
            self._writer.write(frames.pack(wire.encode(message)))

    async def call(self, name: str, /, **args: Any) -> Any:
        """Raises EngineError with the core's words, EngineDeadError when it is gone."""
        if self.is_gone:
            raise EngineDeadError("The engine core is gone.")
        call_id = next(self._call_ids)
        waiting = self._calls[call_id] = asyncio.get_running_loop().create_future()
        self.send(Control(name, args, call_id))
        reply = await waiting
        if reply.error is not None:
            raise EngineError(reply.error)
        return reply.value

    def close_socket(self) -> None:
        """From any thread; of a connected one the event loop closes it, in its next turn if it has one."""
        if self._writer is None or self._loop is None:
            self._sock.close()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all that it had
            self._loop.call_soon_threadsafe(self._writer.close)
