"""Cores that hang, crash by a request, or lose their device, under real processes with a fake executor."""

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from kvasir.engine.async_llm import AsyncLLM
from kvasir.engine.supervisor.incidents import Incidents
from kvasir.engine.supervisor.supervisor import Recovery
from kvasir.errors import EngineDeadError, EngineRestartingError, RequestFailedError
from kvasir.testing.fake_executor import expected_tokens
from kvasir.utils.heartbeat import Phase
from tests.engine.cores import VOCAB
from tests.engine.test_async_llm import async_llm, params, tokens_of

DEADLY = 250
INNOCENTS = [[i, i + 1, i + 2] for i in range(7)]


def told(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("incident-*.json"))]


async def streams(engine: AsyncLLM, prompts: list[list[int]], **more: Any) -> list[Any]:
    tasks = (tokens_of(engine, p, **more) for p in prompts)
    return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)


def listen(engine: AsyncLLM) -> list[Recovery]:
    heard: list[Recovery] = []
    engine.add_recovery_listener(heard.append)
    return heard


@pytest.mark.parametrize(
    ("deed", "cause", "overlapped"),
    [
        ("abort", "crashed", True),
        ("exit", "crashed", False),
        ("orphan", "crashed", True),
        ("device", "device_fault", True),
        ("device", "device_fault", False),
    ],
)
async def test_a_request_that_ends_the_core_is_refused_and_the_others_lose_nothing(
    deed: str, cause: str, overlapped: bool, tmp_path: Path
) -> None:
    poison = {DEADLY: (deed, 5)}
    async with async_llm(1, poison=poison, delay_s=0.005, overlap=overlapped, incidents=Incidents(tmp_path)) as engine:
        heard = listen(engine)
        *found, refused = await streams(engine, [*INNOCENTS, [1, DEADLY]], max_tokens=40)
        assert found == [expected_tokens(p, 9, 40, VOCAB) for p in INNOCENTS]
        assert isinstance(refused, RequestFailedError) and "ended the engine twice" in refused.message
        assert {r.reason for r in heard} == {cause} and sum(r.num_refused for r in heard) == 1
        assert await tokens_of(engine, [5, 6]) == expected_tokens([5, 6], 9, 20, VOCAB), "and new ones are served"
        await engine.check_ready()
        assert await engine.call("check_integrity") is None
    incidents = told(tmp_path)
    assert len(incidents) == len(heard) and incidents[-1]["refused"] and incidents[0]["suspects"] > 1
    assert incidents[-1]["requests_in_flight"] == 1, "it was alone in the end"


async def test_poison_twice_within_the_bound_of_one_restart() -> None:
    """A search that finds its culprit is not held against the core."""
    async with async_llm(1, poison={DEADLY: ("abort", 2)}, delay_s=0.005) as engine:
        for _ in range(2):
            *found, refused = await streams(engine, [*INNOCENTS[:2], [DEADLY]], max_tokens=10)
            assert found == [expected_tokens(p, 9, 10, VOCAB) for p in INNOCENTS[:2]]
            assert isinstance(refused, RequestFailedError)


async def test_several_answers_to_a_poisonous_prompt_end_as_one() -> None:
    async with async_llm(1, poison={DEADLY: ("abort", 1)}, delay_s=0.005) as engine:
        with pytest.raises(RequestFailedError, match="ended the engine twice"):
            async for _ in engine.generate([3, DEADLY], params(10, n=3)):
                pass
        assert await tokens_of(engine, [5, 6]) == expected_tokens([5, 6], 9, 20, VOCAB)


async def test_kills_from_outside_are_not_held_against_the_one_that_runs(tmp_path: Path) -> None:
    async with async_llm(6, delay_s=0.01, incidents=Incidents(tmp_path)) as engine:
        stream = asyncio.create_task(tokens_of(engine, [1, 2], max_tokens=100))
        for _ in range(5):
            await asyncio.sleep(0.25)
            while not engine.cores[0].is_up:
                await asyncio.sleep(0.02)
            engine.cores[0].client.process.kill()
        assert await asyncio.wait_for(stream, 60) == expected_tokens([1, 2], 9, 100, VOCAB)
    assert {i["cause"] for i in told(tmp_path)} == {"killed"} and not any(i["suspects"] for i in told(tmp_path))


async def test_a_core_that_hangs_is_killed_and_its_request_is_found() -> None:
    async with async_llm(1, poison={DEADLY: ("hang", 3)}, delay_s=0.005, step_s=1.0) as engine:
        heard = listen(engine)
        *found, refused = await streams(engine, [*INNOCENTS[:2], [DEADLY]], max_tokens=30)
        assert found == [expected_tokens(p, 9, 30, VOCAB) for p in INNOCENTS[:2]]
        assert isinstance(refused, RequestFailedError)
        assert {r.reason for r in heard} == {"stuck"}


async def test_a_stopped_core_is_replaced_and_nobody_is_blamed(tmp_path: Path) -> None:
    async with async_llm(2, delay_s=0.01, step_s=1.0, incidents=Incidents(tmp_path)) as engine:
        heard = listen(engine)
        stream = asyncio.create_task(tokens_of(engine, [1, 2], max_tokens=60))
        await asyncio.sleep(0.3)
        engine.cores[0].client.process.send_signal(signal.SIGSTOP)
        assert await asyncio.wait_for(stream, 60) == expected_tokens([1, 2], 9, 60, VOCAB)
        assert [r.reason for r in heard] == ["stopped"]
        assert 0 < heard[0].seconds < 10
        (incident,) = told(tmp_path)
        assert incident["phase"] == "step" and 1.0 < incident["silent_s"] < 5 and not incident["suspects"]


async def test_an_idle_core_that_is_stopped_is_left_alone_until_somebody_asks() -> None:
    async with async_llm(2, step_s=1.0) as engine:
        await engine.check_health()
        heard, pid = listen(engine), engine.cores[0].client.process.pid
        while engine.cores[0].client.heartbeat.phase is not Phase.IDLE:
            await asyncio.sleep(0.02)
        engine.cores[0].client.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        assert engine.cores[0].client.process.pid == pid
        found = await asyncio.wait_for(tokens_of(engine, [1, 2]), 60)
        assert found == expected_tokens([1, 2], 9, 20, VOCAB)
        assert [r.reason for r in heard] == ["stopped"]


async def test_a_long_honest_wait_is_no_alarm() -> None:
    """Idle cores beat; so a request that comes after a long silence finds the same core."""
    async with async_llm(0, step_s=1.0) as engine:
        await engine.check_health()
        pid = engine.cores[0].client.process.pid
        await asyncio.sleep(2.5)
        assert await tokens_of(engine, [1, 2]) == expected_tokens([1, 2], 9, 20, VOCAB)
        assert engine.cores[0].client.process.pid == pid


async def test_readiness_while_the_core_is_down_and_while_a_culprit_is_looked_for() -> None:
    async with async_llm(2, poison={DEADLY: ("abort", 20)}, delay_s=0.01) as engine:
        await engine.check_ready()
        tasks = [asyncio.create_task(tokens_of(engine, p, max_tokens=60)) for p in [*INNOCENTS, [DEADLY]]]
        said: set[str] = set()
        while not all(t.done() for t in tasks):
            try:
                await engine.check_ready()
            except EngineRestartingError as error:
                said.add(error.message.split()[2])
            await asyncio.sleep(0.01)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert said == {"core", "looks"}
        await engine.check_ready()


async def test_ten_kills_in_a_row() -> None:
    async with async_llm(12, delay_s=0.01) as engine:
        tasks = [asyncio.create_task(tokens_of(engine, p, max_tokens=60)) for p in INNOCENTS]
        for _ in range(10):
            while not engine.cores[0].is_up:
                await asyncio.sleep(0.01)
            engine.cores[0].client.process.kill()
            await asyncio.sleep(0.05)
        assert await asyncio.wait_for(asyncio.gather(*tasks), 90) == [
            expected_tokens(p, 9, 60, VOCAB) for p in INNOCENTS
        ]


async def test_those_on_trial_may_leave_while_there_is_no_core() -> None:
    async with async_llm(3, poison={DEADLY: ("abort", 2)}, delay_s=0.01) as engine:
        deadly = asyncio.create_task(tokens_of(engine, [DEADLY], max_tokens=30))
        other = asyncio.create_task(tokens_of(engine, [4, 5], max_tokens=30))
        while engine.cores[0].is_up:
            await asyncio.sleep(0.005)
        deadly.cancel()
        assert await asyncio.wait_for(other, 30) == expected_tokens([4, 5], 9, 30, VOCAB)
        await engine.check_ready()


async def test_sigterm_to_the_core_is_the_fronts_business() -> None:
    """A service manager that signals the whole group must not cut the core off while the front drains."""
    async with async_llm(0, delay_s=0.01) as engine:
        stream = asyncio.create_task(tokens_of(engine, [1, 2], max_tokens=40))
        await asyncio.sleep(0.2)
        engine.cores[0].client.process.terminate()
        assert await asyncio.wait_for(stream, 30) == expected_tokens([1, 2], 9, 40, VOCAB)


async def test_shutdown_while_a_core_is_being_started() -> None:
    async with async_llm(3, delay_s=0.01) as engine:
        stream = asyncio.create_task(tokens_of(engine, [1], max_tokens=300))
        await asyncio.sleep(0.2)
        engine.cores[0].client.process.kill()
        while engine.cores[0].is_up:
            await asyncio.sleep(0.005)
        started = time.monotonic()
        engine.shutdown()
        assert time.monotonic() - started < 5
        stream.cancel()


async def test_a_core_on_standby_takes_over_and_one_that_is_dead_does_not() -> None:
    async with async_llm(5, standby=True, delay_s=0.01) as engine:
        stream = asyncio.create_task(tokens_of(engine, [1, 2], max_tokens=150))
        for kill_standby in (False, True):
            await asyncio.sleep(0.3)
            standby = engine.cores[0].supervisor._standby
            assert standby is not None and standby is not engine.cores[0].client
            if kill_standby:
                standby.process.kill()
                standby.process.wait()
            engine.cores[0].client.process.kill()
            while engine.cores[0].is_up:
                await asyncio.sleep(0.005)
            while not engine.cores[0].is_up:
                await asyncio.sleep(0.005)
            assert (engine.cores[0].client is standby) == (not kill_standby)
        assert await asyncio.wait_for(stream, 60) == expected_tokens([1, 2], 9, 150, VOCAB)
        waiting = engine.cores[0].supervisor._standby
    assert waiting is not None and waiting.process.wait(10) is not None, "it goes with the engine"


async def test_a_core_that_cannot_start_again_is_tried_as_often_as_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvasir.engine.supervisor.supervisor._FIRST_PAUSE_S", 0.05)
    async with async_llm(3, delay_s=0.01) as engine:
        stream = asyncio.create_task(tokens_of(engine, [1, 2], max_tokens=150))
        await asyncio.sleep(0.2)
        engine.cores[0].supervisor.settings = lambda epoch, known: json.dumps({"num_blocks": 0}).encode()
        engine.cores[0].client.process.kill()
        with pytest.raises(EngineDeadError, match=r"0 blocks.*3 times in ten minutes already"):
            await asyncio.wait_for(stream, 60)
        assert not engine.is_alive and engine.cores[0].supervisor.epoch == 3
