"""Who goes first: lines of batches run in the places that interactive requests leave."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

RESERVE = 8
"""One of so many places is kept free, so that an interactive request finds one without waiting."""
MAX_WITHDRAWALS = 3
"""After so many, a line keeps its place: it ends at last, however busy the server is."""


class Withdrawn(Exception):
    """The line had to leave its place and has to be run again."""


class Gate:
    """Gives places in the order of asking, and takes them back, the newest first, when interactive requests need them.

    One line always runs, so that a batch ends at last on a server that is never idle.

    Args:
        capacity: requests that run in the engine at the same time.
        bound: most lines at once; None: all of `capacity` but the reserve.
        interactive: how many other requests there are now.
    """

    def __init__(self, capacity: int, bound: int | None, interactive: Callable[[], int]):
        self.capacity = capacity
        self.places = min(bound or capacity, max(1, capacity - capacity // RESERVE))
        self._interactive = interactive
        self._taken = 0
        self._movable: list[asyncio.Task[Any]] = []  # lines that may be withdrawn, oldest first
        self._leaving: set[asyncio.Task[Any]] = set()  # withdrawn, and still holding their places
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def num_taken(self) -> int:
        return self._taken

    @property
    def room(self) -> int:
        """Lines that may run now."""
        free = self.capacity - self.capacity // RESERVE - self._interactive()
        return max(1, min(self.places, free))

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], withdrawals: int = 0) -> T:
        """Waits for a place and runs `work()` there.

        Args:
            withdrawals: how often the line had to leave before.

        Raises:
            Withdrawn: interactive requests needed the place.
        """
        await self._take()
        task = asyncio.create_task(work())
        if withdrawals < MAX_WITHDRAWALS:
            self._movable.append(task)
        try:
            await asyncio.wait((task,))
            if task.cancelled():
                raise Withdrawn
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            if task in self._movable:
                self._movable.remove(task)
            self._leaving.discard(task)
            self._give_back()

    async def _take(self) -> None:
        if not self._waiting and self._taken < self.room:
            self._taken += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_back()  # it was given in the moment of leaving
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _give_back(self) -> None:
        self._taken -= 1
        self.look()

    def look(self) -> None:
        """Acts on how busy the server is now; called from time to time and when a place gets free."""
        while self._waiting and self._taken < self.room:
            turn = self._waiting.popleft()
            if not turn.done():  # else its line has just been cancelled
                self._taken += 1
                turn.set_result(None)
        too_many = self._taken - len(self._leaving) - max(1, self.capacity - self._interactive())
        while too_many > 0 and self._movable:
            task = self._movable.pop()
            if not task.done():
                task.cancel()
                self._leaving.add(task)
                too_many -= 1
