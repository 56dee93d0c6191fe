"""A core in a process of its own, started again when it dies: its requests go on where they stood."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from kvasir.engine.client import ProcessClient
from kvasir.engine.core_hold import CoreOwner
from kvasir.engine.supervisor.death import Death
from kvasir.engine.supervisor.quarantine import Quarantine
from kvasir.engine.supervisor.supervisor import Recovery, Supervisor
from kvasir.errors import EngineRestartingError
from kvasir.logger import get_logger
from kvasir.messages import Control, EngineCoreOutput, EngineCoreRequest
from kvasir.utils.heartbeat import digest

logger = get_logger(__name__)


class SupervisedCore:
    """A CoreHold over a Supervisor, whose core was launched.

    Args:
        index: which of the engine's cores this is.
    """

    def __init__(self, supervisor: Supervisor, index: int = 0):
        self.index = index
        self.supervisor = supervisor
        self.is_up = False
        self.connected = asyncio.Event()
        self._quarantine = Quarantine()
        self._owner: CoreOwner | None = None
        self._closing = False

    @property
    def client(self) -> ProcessClient:
        return self.supervisor.client

    def send(self, message: EngineCoreRequest | Control) -> None:
        """A request that is under suspicion, or behind one that is, is sent later."""
        if not self.is_up:
            return
        if isinstance(message, Control):
            self.client.send(message)
            self._release()
        elif self._quarantine.offer(message.request_id):
            self.client.send(message)

    async def call(self, name: str, /, **args: Any) -> Any:
        await self.check(fully=False)
        return await self.client.call(name, **args)

    async def check(self, *, fully: bool) -> None:
        if not self.is_up:
            raise EngineRestartingError("The engine core died and is being started again; running requests go on then.")
        if fully and self._quarantine.active:
            raise EngineRestartingError(
                f"The engine looks for the request that ended its core, among {self._quarantine.num_suspects}; new "
                "requests wait until it is found."
            )

    async def run(self, owner: CoreOwner) -> str:
        self._owner = owner
        try:
            await self.client.connect()
            self.is_up = True
            self.connected.set()
            while not self._closing:
                death = await self.supervisor.run(self._take, pending=lambda: bool(owner.live(self.index)))
                if self._closing:
                    break
                self.is_up = False
                why = await self._start_again(death, owner)
                if why is not None:
                    return f"{death} {why}"
            return "The engine was shut down."
        except Exception as error:
            logger.exception("supervision of the engine core failed")
            self.supervisor.close()
            return f"Supervision of the engine core failed: {error}"
        finally:
            self.is_up = False
            self.connected.set()

    async def _start_again(self, death: Death, owner: CoreOwner) -> str | None:
        """A new core takes over every live request where it stood; returns why not, when that is not to be."""
        noticed = time.monotonic()
        live = owner.live(self.index)
        names = {digest(request_id): request_id for request_id in live}
        in_flight = {names[d]: count for d, count in death.in_flight.items() if d in names}
        ruling = self._quarantine.on_death(death.from_within, in_flight, live)
        self._refuse(ruling.refused, owner)
        num_suspects = self._quarantine.num_suspects
        await asyncio.to_thread(self.supervisor.record, death, ruling, in_flight, len(live), num_suspects)
        why = await self.supervisor.restart(ruling)
        if why is not None or self._closing:
            return why
        await self.client.connect()
        self.is_up = True
        resumed = [owner.resumed(request_id) for request_id in owner.live(self.index)]
        for request in resumed:
            self.send(request)
        self._release()  # those on trial may have left while there was no core
        recovery = Recovery(death.cause.value, time.monotonic() - noticed, len(ruling.refused))
        owner.recovered(self.index, recovery)
        held = f"; {num_suspects} are under suspicion, the others wait for them" if self._quarantine.active else ""
        logger.warning(
            "the engine core is back after %.2f s, %d requests go on%s", recovery.seconds, len(resumed), held
        )
        return None

    @staticmethod
    def _refuse(request_ids: Sequence[str], owner: CoreOwner) -> None:
        for request_id in request_ids:
            logger.error("request %s ended the core twice while it ran alone, and is refused", request_id)
            owner.fail(
                [request_id],
                "This request ended the engine twice while it ran alone, so it is refused; all others go on. Please "
                f"report it, with the incident files of the server, under the id {request_id}.",
            )

    def _release(self) -> None:
        """Sends what was held back and may go now."""
        if self._quarantine.active and self._owner is not None:
            for request_id in self._quarantine.note(self._owner.live(self.index)):
                self.client.send(self._owner.resumed(request_id))

    def _take(self, steps: list[EngineCoreOutput]) -> None:
        """A word of another epoch is one of a core that is dead: its requests are another's by now."""
        assert self._owner is not None
        current = [said for said in steps if said.epoch == self.supervisor.epoch]
        if current:
            self._owner.take(self.index, current)
        self._release()

    def close(self, timeout_s: float = 10.0) -> None:
        self._closing = True
        self.supervisor.close(timeout_s)
