"""Runs the batches of a folder, beside the server's other work; one process per folder does."""

import asyncio
import contextlib
import fcntl
import time
from collections.abc import Callable
from typing import IO

from kvasir.entrypoints.http.batches.gate import Gate
from kvasir.entrypoints.http.batches.job import BatchJob
from kvasir.entrypoints.http.batches.schema import StoredBatch
from kvasir.entrypoints.http.batches.store import Store
from kvasir.logger import get_logger

logger = get_logger(__name__)

MAX_ACTIVE = 8
"""Batches that run at the same time and share the places line by line; the others wait in order of creation."""
_POLL_S = 1.0
_LOOK_S = 0.05
_SWEEP_S = 60.0
_RETRY_S = 10.0


class BatchWorker:
    """`start` it on the event loop of the server and `stop` it before the engine goes.

    Args:
        make_job: a job for a stored batch.
    """

    def __init__(self, store: Store, gate: Gate, make_job: Callable[[StoredBatch], BatchJob]):
        self._store = store
        self._gate = gate
        self._make_job = make_job
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._not_before: dict[str, float] = {}
        self._news = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._lock: IO[bytes] | None = None

    def start(self) -> None:
        self._loops = [asyncio.create_task(self._run()), asyncio.create_task(self._watch_gate())]

    def wake(self) -> None:
        self._news.set()

    async def stop(self) -> None:
        """Lines in flight are run again by the next server; answers that are there are on the disk when it returns."""
        for task in (*self._loops, *self._jobs.values()):
            task.cancel()
        await asyncio.gather(*self._loops, *self._jobs.values(), return_exceptions=True)
        if self._lock is not None:
            self._lock.close()
        await asyncio.to_thread(self._store.close)

    async def _run(self) -> None:
        next_sweep = 0.0
        while True:
            self._news.clear()
            try:
                if self._is_alone():
                    await self._start_jobs()
                    if time.monotonic() >= next_sweep:
                        await asyncio.to_thread(self._store.sweep)
                        next_sweep = time.monotonic() + _SWEEP_S
            except Exception:
                logger.exception("looking for batches failed; it is tried again")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), _POLL_S)

    def _is_alone(self) -> bool:
        """Whether no other process runs the batches of this folder; the lock goes with the process."""
        if self._lock is None:
            file = open(self._store.folder / "worker.lock", "wb")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                return False
            self._lock = file
        return True

    async def _start_jobs(self) -> None:
        now = time.monotonic()
        for stored in await asyncio.to_thread(self._store.unfinished, MAX_ACTIVE):
            batch_id = stored.batch.id
            if batch_id not in self._jobs and self._not_before.get(batch_id, 0.0) <= now:
                task = asyncio.create_task(self._make_job(stored).run(), name=batch_id)
                self._jobs[batch_id] = task
                task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        batch_id = task.get_name()
        del self._jobs[batch_id]
        self._not_before.pop(batch_id, None)
        self._news.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._not_before[batch_id] = time.monotonic() + _RETRY_S
            logger.error("%s stopped and goes on in %g s: %s: %s", batch_id, _RETRY_S, type(error).__name__, error)

    async def _watch_gate(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            if self._jobs:
                self._gate.look()
