"""SEAM: an async engine's hold on one core, wherever that core is; and what the core's keeper needs of the engine."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from kvasir.engine.supervisor.supervisor import Recovery
from kvasir.messages import Control, EngineCoreOutput, EngineCoreRequest


class CoreOwner(Protocol):
    """The engine, as a hold sees it. `core` is the hold's index: an engine may have several."""

    def take(self, core: int, steps: Sequence[EngineCoreOutput]) -> None:
        """All that the core has said since the last time."""

    def live(self, core: int) -> dict[str, int]:
        """Its unfinished requests, in order of arrival -> their tokens, prompt and answer."""

    def resumed(self, request_id: str) -> EngineCoreRequest:
        """A live request with the tokens it has, for a core that has not heard of it."""

    def fail(self, request_ids: Sequence[str], why: str) -> None:
        """These requests are refused."""

    def recovered(self, core: int, recovery: Recovery) -> None:
        """A new core took the dead one's place; its cache is empty."""


class CoreHold(Protocol):
    """One core. While it is down `send` drops what it is given: a new core is told of every live request.

    Attributes:
        is_up: it takes requests now.
        connected: set once it can be used, or never will be.
    """

    is_up: bool
    connected: asyncio.Event

    def send(self, message: EngineCoreRequest | Control) -> None:
        """To the core, when there is one."""

    async def call(self, name: str, /, **args: Any) -> Any:
        """Raises EngineError with the core's words, EngineDeadError when it is gone."""

    async def check(self, *, fully: bool) -> None:
        """Raises EngineDeadError when it is down, or (`fully`) when a new request would wait for more than its turn."""

    async def run(self, owner: CoreOwner) -> str:
        """Hands what the core says to `owner` until it is gone for good; returns why. Called once."""

    def close(self, timeout_s: float) -> None:
        """Ends it, and blocks until it is gone; any thread may call it. Idempotent."""
