"""The engine of another process, as one core: what an API process holds when several share the engine."""

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from kvasir.engine.connection import CoreConnection
from kvasir.engine.core_hold import CoreOwner
from kvasir.errors import EngineDeadError, EngineRestartingError
from kvasir.messages import Control, EngineCoreOutput, EngineCoreRequest


class RemoteCore:
    """A CoreHold over a socket to a `Hub`. That one supervises, restarts and routes; here a core never dies.

    Args:
        sock: connected to the hub.
        client_index: which of its front processes this one is; the hub's answers to others do not come here.
    """

    def __init__(self, sock: socket.socket, client_index: int):
        self.is_up = False
        self.connected = asyncio.Event()
        self._connection = CoreConnection(sock)
        self.client_index = client_index

    def send(self, message: EngineCoreRequest | Control) -> None:
        if self.is_up:
            if isinstance(message, EngineCoreRequest):
                message.client_index = self.client_index
            self._connection.send(message)

    async def call(self, name: str, /, **args: Any) -> Any:
        return await self._connection.call(name, **args)

    async def check(self, *, fully: bool) -> None:
        """Asks the hub how its cores are."""
        problem = await self._connection.call("check", fully=fully)
        if problem is not None:
            raise (EngineRestartingError if problem["is_restarting"] else EngineDeadError)(problem["why"])

    async def run(self, owner: CoreOwner) -> str:
        try:
            await self._connection.connect()
            self.is_up = True
            self.connected.set()
            while (steps := await self._connection.receive()) is not None:
                self._take(owner, steps)
            return "The process that holds the engine is gone."
        finally:
            self.is_up = False
            self.connected.set()

    @staticmethod
    def _take(owner: CoreOwner, steps: Sequence[EngineCoreOutput]) -> None:
        owner.take(0, steps)

    def close(self, timeout_s: float = 0.0) -> None:
        self.is_up = False
        self._connection.close_socket()
