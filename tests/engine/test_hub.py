"""Several fronts over one hub over real core processes: each gets its own rows, and no front's end is another's."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from kvasir.engine import hub as hub_module
from kvasir.engine.async_llm import AsyncLLM
from kvasir.engine.hub import Hub
from kvasir.engine.input import InputProcessor
from kvasir.engine.remote_core import RemoteCore
from kvasir.engine.supervised_core import SupervisedCore
from kvasir.errors import EngineDeadError, EngineError, RequestFailedError
from kvasir.messages import SchedulerStats
from kvasir.testing.fake_executor import expected_tokens
from tests.engine.cores import VOCAB, supervisor
from tests.engine.test_async_llm import params, tokens_of

SCHEDULER = SimpleNamespace(max_num_seqs=8, max_queued_requests=1000, max_queued_tokens=1 << 20, max_queue_wait=0.0)
CONFIG = SimpleNamespace(scheduler=SCHEDULER)


@dataclass
class Shared:
    """A hub over cores, and what a test needs to add fronts to it."""

    engine: AsyncLLM
    hub: Hub
    serving: list[asyncio.Task[None]] = field(default_factory=list)

    def front(self, index: int) -> AsyncLLM:
        ours, theirs = socket.socketpair()
        self.serving.append(asyncio.create_task(self.hub.serve(ours, index)))
        ready = self.engine.ready
        inputs = InputProcessor(None, max_model_len=ready.max_model_len, vocab_size=VOCAB, eos_token_ids=())
        return AsyncLLM(CONFIG, [RemoteCore(theirs, index)], ready, inputs, None)


@contextlib.asynccontextmanager
async def shared(num_cores: int = 1, max_restarts: int = 0, **more: Any) -> AsyncIterator[Shared]:
    watched = [supervisor(max_restarts, **more) for _ in range(num_cores)]
    for one in watched:
        one.launch()
    ready = [one.wait_ready() for one in watched].pop()
    cores = [SupervisedCore(one, i) for i, one in enumerate(watched)]
    engine = AsyncLLM(CONFIG, cores, ready, None, None)
    await engine.check_health()
    all_of_it = Shared(engine, Hub(engine, {"echo": lambda index, args: [index, args["x"]]}))
    try:
        yield all_of_it
    finally:
        engine.shutdown()
        for task in all_of_it.serving:
            task.cancel()


@pytest.mark.parametrize("num_cores", [1, 2])
async def test_each_front_gets_its_own_streams(num_cores: int) -> None:
    async with shared(num_cores, num_blocks=60) as over:
        fronts = [over.front(i) for i in range(3)]
        prompts = [[i, i + 1, i + 2] * (1 + i % 5) for i in range(45)]
        found = await asyncio.gather(*(tokens_of(fronts[i % 3], p) for i, p in enumerate(prompts)))
        assert found == [expected_tokens(p, 9, 20, VOCAB) for p in prompts]
        assert over.engine.num_unfinished == 0 and all(front.num_unfinished == 0 for front in fronts)
        assert await fronts[1].call("check_integrity") is None
        assert await fronts[2].reset_prefix_cache()
        assert await fronts[2].call("echo", x=5) == [2, 5]
        with pytest.raises(EngineError, match="unknown control call 'dance'"):
            await fronts[0].call("dance")
        for front in fronts:
            front.shutdown()


async def test_n_answers_and_logprobs_pass_through() -> None:
    async with shared() as over:
        front = over.front(0)
        ids: dict[int, list[int]] = {}
        async for output in front.generate([1, 2], params(6, n=3, logprobs=1)):
            for answer in output.outputs:
                ids.setdefault(answer.index, []).extend(answer.token_ids)
                assert len(answer.logprobs) == len(answer.token_ids)
        assert ids == {i: expected_tokens([1, 2], 9 + i, 6, VOCAB) for i in range(3)}
        front.shutdown()


async def test_leaving_and_aborting_free_the_blocks() -> None:
    async with shared(delay_s=0.01) as over:
        front = over.front(0)
        stream = front.generate([1, 2, 3], params(400))
        await anext(stream)
        await stream.aclose()
        while (await front.call("stats") or [0])[0]:
            await asyncio.sleep(0.01)
        assert over.engine.num_unfinished == 0
        front.shutdown()


async def test_a_front_that_is_gone_takes_its_requests_along() -> None:
    async with shared(delay_s=0.01) as over:
        stays, goes = over.front(0), over.front(1)
        kept = asyncio.create_task(tokens_of(stays, [1, 2], max_tokens=60))
        lost = [asyncio.create_task(tokens_of(goes, [i], max_tokens=400)) for i in range(4)]
        await asyncio.sleep(0.2)
        assert over.engine.num_unfinished == 5
        goes.cores[0].close()
        assert await kept == expected_tokens([1, 2], 9, 60, VOCAB)
        assert over.engine.num_unfinished == 0
        again = over.front(1)
        assert await tokens_of(again, [8, 9]) == expected_tokens([8, 9], 9, 20, VOCAB)
        for task in lost:
            task.cancel()
        stays.shutdown()
        again.shutdown()


async def test_streams_survive_a_killed_core() -> None:
    async with shared(max_restarts=3, delay_s=0.01) as over:
        fronts = [over.front(i) for i in range(2)]
        prompts = [[i, i + 1] for i in range(8)]
        streams = [asyncio.create_task(tokens_of(fronts[i % 2], p, max_tokens=60)) for i, p in enumerate(prompts)]
        for _ in range(2):
            await asyncio.sleep(0.2)
            while not over.engine.cores[0].is_up:
                await asyncio.sleep(0.01)
            over.engine.cores[0].client.process.kill()
        while over.engine.cores[0].is_up:
            await asyncio.sleep(0.01)
        with pytest.raises(EngineDeadError, match="being started again"):
            await fronts[0].check_health()
        found = await asyncio.wait_for(asyncio.gather(*streams), 60)
        assert found == [expected_tokens(p, 9, 60, VOCAB) for p in prompts]
        for front in fronts:
            await front.check_ready()
            front.shutdown()


async def test_the_end_of_the_engine_is_told_to_every_front() -> None:
    async with shared(delay_s=0.02) as over:
        front = over.front(0)
        stream = asyncio.create_task(tokens_of(front, [1], max_tokens=400))
        await asyncio.sleep(0.2)
        over.engine.cores[0].client.process.kill()
        with pytest.raises(RequestFailedError, match="SIGKILL"):
            await asyncio.wait_for(stream, 30)
        with pytest.raises(EngineDeadError, match="SIGKILL"):
            await front.check_health()
        front.shutdown()


async def test_the_end_of_the_hub_is_the_end_of_its_fronts() -> None:
    async with shared(delay_s=0.02) as over:
        front = over.front(0)
        stream = asyncio.create_task(tokens_of(front, [1], max_tokens=400))
        await asyncio.sleep(0.2)
        over.serving[0].cancel()
        with pytest.raises(EngineDeadError, match="process that holds the engine is gone"):
            await asyncio.wait_for(stream, 30)
        assert not front.is_alive


async def test_figures_are_the_hubs() -> None:
    async with shared() as over:
        heard: list[SchedulerStats] = []
        over.engine.add_stats_listener(lambda stats, core: heard.append(stats))
        front, at_front = over.front(0), []
        front.add_stats_listener(lambda stats, core: at_front.append(stats))
        await tokens_of(front, [1])
        assert heard and not at_front
        front.shutdown()


async def test_a_front_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "MAX_UNREAD_BYTES", 1000)
    async with shared() as over:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        serving = asyncio.create_task(over.hub.serve(ours, 7))
        front = RemoteCore(theirs, 7)
        await front._connection.connect()
        front._connection._writer.pause_reading()
        front.is_up = True
        good = over.front(0)
        await good.check_health()
        for i in range(40):
            front.send(good._input.process(f"r{i}", [i, 1], params(200)))
        await asyncio.wait_for(serving, 20)
        assert await tokens_of(good, [3]) == expected_tokens([3], 9, 20, VOCAB)
        good.shutdown()
        theirs.close()
