"""Answers in the making: counted for /load, refused while draining, ended when the client hangs up or time is over."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.types import Receive

from kvasir.entrypoints.http.errors import ClientGone, DrainingError
from kvasir.errors import CapacityError


class Inflight:
    """The answers one server is working on."""

    def __init__(self, check_room: Callable[[], None] | None = None) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._check_room = check_room
        self.draining = False
        self.paused = False

    def __len__(self) -> int:
        return len(self._tasks)

    def check_open(self) -> None:
        if self.draining:
            raise DrainingError(
                "the server is shutting down and takes no new requests; ask another one or try again shortly.",
                retry_after_s=5.0,
            )

    def check_admits(self) -> None:
        """Asked before a request's body is read.

        Raises:
            DrainingError: the server stops.
            CapacityError: it is paused, or so much waits that the request would be refused anyway.
        """
        self.check_open()
        if self.paused:
            raise CapacityError("the server is paused and takes no new requests for now.", retry_after_s=5.0)
        if self._check_room is not None:
            self._check_room()

    async def run(self, receive: Receive, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` until it is done, its client has gone, or `abort_all`.

        Raises:
            ClientGone: `work` was cancelled, and has cleaned up, because nobody listens.
            DrainingError: `work` was cancelled by `abort_all`.
        """
        task = asyncio.create_task(work)
        watcher = asyncio.create_task(_disconnected(receive))
        self._tasks.add(task)
        try:
            await asyncio.wait((task, watcher), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGone
            if task.cancelled():
                raise DrainingError("the server was shut down before the answer was complete; send the request again.")
            task.result()
        finally:
            watcher.cancel()
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            self._tasks.discard(task)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Runs `work` with nobody listening; it is counted and waited for like the others."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def wait_idle(self, timeout_s: float) -> bool:
        """Whether everything in flight ended in time."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._tasks:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await asyncio.wait(set(self._tasks), timeout=min(left, 0.5), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0.01)  # lets `run` take the task off the list
        return True

    def abort_all(self) -> int:
        for task in self._tasks:
            task.cancel()
        return len(self._tasks)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
