"""Places for lines: what interactive requests leave, given in order, taken back when they are needed."""

import asyncio
from typing import Any

import pytest

from kvasir.entrypoints.http.batches.gate import MAX_WITHDRAWALS, Gate, Withdrawn


class Line:
    def __init__(self) -> None:
        self.is_running = False
        self.end = asyncio.Event()

    async def work(self) -> str:
        self.is_running = True
        try:
            await self.end.wait()
            return "done"
        finally:
            self.is_running = False


class Desk:
    """A gate, lines in it, and a number of interactive requests."""

    def __init__(self, capacity: int, bound: int | None = None):
        self.interactive = 0
        self.gate = Gate(capacity, bound, lambda: self.interactive)
        self.lines: list[Line] = []
        self.tasks: list[asyncio.Task[Any]] = []

    async def add(self, count: int, withdrawals: int = 0) -> None:
        for _ in range(count):
            self.lines.append(Line())
            self.tasks.append(asyncio.create_task(self.gate.run(self.lines[-1].work, withdrawals)))
        await settle()

    @property
    def running(self) -> list[int]:
        return [i for i, line in enumerate(self.lines) if line.is_running]

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        assert self.gate.num_taken == 0

    async def look(self) -> None:
        self.gate.look()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_an_eighth_is_kept_free_and_interactive_requests_lower_the_rest() -> None:
    desk = Desk(16)
    await desk.add(20)
    assert desk.running == list(range(14))
    desk.interactive = 2
    await desk.look()
    assert len(desk.running) == 14, "there are places for all"
    desk.lines[0].end.set()
    await settle()
    assert desk.running == list(range(1, 14)), "no new line while others need the room"
    desk.interactive = 0
    await desk.look()
    assert desk.running == list(range(1, 15))
    assert desk.tasks[0].result() == "done"
    await desk.close()


async def test_the_newest_are_withdrawn_and_run_again() -> None:
    desk = Desk(16)
    await desk.add(14)
    desk.interactive = 6
    await desk.look()
    assert desk.running == list(range(10))
    for task in desk.tasks[10:]:
        with pytest.raises(Withdrawn):
            await task
    await desk.look()
    assert len(desk.running) == 10, "nobody is withdrawn twice for the same request"
    await desk.close()


async def test_one_line_always_runs_and_nobody_is_withdrawn_for_ever() -> None:
    desk = Desk(4)
    desk.interactive = 100
    await desk.add(3)
    assert desk.running == [0]
    desk.interactive = 0
    await desk.look()
    assert desk.running == [0, 1, 2]
    await desk.close()
    desk = Desk(8)
    await desk.add(4, MAX_WITHDRAWALS)
    desk.interactive = 100
    await desk.look()
    assert desk.running == [0, 1, 2, 3]
    await desk.close()


async def test_bound_and_order() -> None:
    desk = Desk(100, bound=2)
    await desk.add(5)
    assert desk.running == [0, 1]
    desk.tasks[2].cancel()
    desk.tasks[0].cancel()
    await settle()
    assert desk.running == [1, 3]
    assert desk.gate.num_taken == 2
    await desk.close()


async def test_a_failure_gives_the_place_back() -> None:
    desk = Desk(2)

    async def fail() -> None:
        raise ValueError("broken")

    for _ in range(5):
        with pytest.raises(ValueError, match="broken"):
            await desk.gate.run(fail)
    assert desk.gate.num_taken == 0


@pytest.mark.parametrize("seed", range(20))
async def test_random_comings_and_goings(seed: int) -> None:
    import random

    rng = random.Random(seed)
    desk = Desk(16)
    for _ in range(200):
        await desk.add(rng.randrange(3))
        desk.interactive = rng.randrange(20)
        open_tasks = [i for i, task in enumerate(desk.tasks) if not task.done()]
        for i in rng.sample(open_tasks, min(2, len(open_tasks))):
            if rng.random() < 0.5:
                desk.lines[i].end.set()
            else:
                desk.tasks[i].cancel()
        await desk.look()
        assert len(desk.running) == desk.gate.num_taken
        assert len(desk.running) <= max(1, min(14, 16 - desk.interactive))
    await desk.close()
