"""Checks of requests that take too long for the event loop, on threads of their own, in a bounded queue."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from kvasir.errors import QueueFullError

THREADS = 4
MAX_WAITING = 256


class SlowChecks:
    """Not the loop's default threads: a crowd here must not hold up what others tokenize there."""

    def __init__(self, threads: int = THREADS, max_waiting: int = MAX_WAITING):
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kvasir-check")
        self._max_waiting = max_waiting
        self._num_waiting = 0

    async def run(self, check: Callable[[], None]) -> None:
        """Raises what `check` raises; QueueFullError when too many wait already."""
        if self._num_waiting >= self._max_waiting:
            raise QueueFullError(f"{self._num_waiting} requests wait for a check of their grammar; try again later.")
        self._num_waiting += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, check)
        finally:
            self._num_waiting -= 1
