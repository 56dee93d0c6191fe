"""Slow checks run beside the event loop, and only so many wait."""

import asyncio
import threading
import time

import pytest

from kvasir.engine.slow_checks import SlowChecks
from kvasir.errors import QueueFullError, UserError


async def test_the_loop_goes_on() -> None:
    checks = SlowChecks(threads=1)
    done = asyncio.create_task(checks.run(lambda: time.sleep(0.3)))
    ticks = 0
    while not done.done():
        await asyncio.sleep(0.01)
        ticks += 1
    assert ticks > 10


async def test_errors_and_the_bound() -> None:
    checks = SlowChecks(threads=1, max_waiting=2)
    gate = threading.Event()

    def wrong() -> None:
        gate.wait(5)
        raise UserError("no")

    waiting = [asyncio.create_task(checks.run(wrong)) for _ in range(2)]
    await asyncio.sleep(0.05)
    with pytest.raises(QueueFullError, match="2 requests wait"):
        await checks.run(wrong)
    gate.set()
    assert [type(e) for e in await asyncio.gather(*waiting, return_exceptions=True)] == [UserError, UserError]
    await checks.run(lambda: None)
