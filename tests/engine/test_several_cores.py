"""AsyncLLM over several cores in processes of their own: exact streams, shared-out load, deaths of one and of all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvasir.engine.async_llm import AsyncLLM
from kvasir.engine.combine import combine
from kvasir.engine.input import InputProcessor
from kvasir.engine.routing import CHUNK_TOKENS
from kvasir.engine.supervised_core import SupervisedCore
from kvasir.errors import EngineDeadError, QueueFullError
from kvasir.messages import SchedulerStats
from kvasir.testing.fake_executor import expected_tokens
from tests.engine.cores import VOCAB, supervisor
from tests.engine.test_async_llm import params, tokens_of

SCHEDULER = SimpleNamespace(max_num_seqs=8, max_queued_requests=20, max_queued_tokens=1 << 20, max_queue_wait=0.0)


@contextlib.asynccontextmanager
async def several(num_cores: int, max_restarts: int = 0, **more: Any) -> AsyncIterator[AsyncLLM]:
    watched = [supervisor(max_restarts, **more) for _ in range(num_cores)]
    for one in watched:
        one.launch()
    ready = [one.wait_ready() for one in watched].pop()
    engine = AsyncLLM(
        SimpleNamespace(scheduler=SCHEDULER),
        [SupervisedCore(one, i) for i, one in enumerate(watched)],
        ready,
        InputProcessor(None, max_model_len=ready.max_model_len, vocab_size=VOCAB, eos_token_ids=()),
        None,
    )
    try:
        yield engine
    finally:
        engine.shutdown()
        assert all(one.client.process.poll() is not None for one in watched)


async def test_streams_are_exact_and_shared_out() -> None:
    prompts = [[i, i + 1, i + 2] * (1 + i % 5) for i in range(60)]
    async with several(3, num_blocks=60, delay_s=0.01) as engine:
        streams = [asyncio.create_task(tokens_of(engine, p)) for p in prompts]
        await asyncio.sleep(0.05)
        loads = list(engine._output.loads)
        found = await asyncio.gather(*streams)
        assert found == [expected_tokens(p, 9, 20, VOCAB) for p in prompts]
        assert max(loads) - min(loads) <= 2 and sum(loads) > 30
        assert engine._output.loads == [0, 0, 0]
        assert await engine.call("check_integrity") is None
        assert await engine.reset_prefix_cache()


async def test_a_shared_beginning_is_computed_once() -> None:
    shared = [7] * (2 * CHUNK_TOKENS)
    async with several(2, num_blocks=200) as engine:
        cached = []
        for i in range(6):
            async for output in engine.generate([*shared, i], params(4)):
                cached.append(output.num_cached_tokens)
        first, *others = cached[::4]
        assert first == 0 and all(n >= len(shared) - 4 for n in others), cached


async def test_one_core_dies_and_the_others_do_not_notice() -> None:
    prompts = [[i, i + 1, i + 2] for i in range(12)]
    async with several(2, max_restarts=2, delay_s=0.01) as engine:
        streams = [asyncio.create_task(tokens_of(engine, p, max_tokens=60)) for p in prompts]
        await asyncio.sleep(0.2)
        engine.cores[0].client.process.kill()
        while engine.cores[0].is_up:
            await asyncio.sleep(0.01)
        await engine.check_health()
        late = await tokens_of(engine, [50, 51], max_tokens=5)
        assert engine.cores[0].is_up is False, "it was answered by the other one"
        assert late == expected_tokens([50, 51], 9, 5, VOCAB)
        found = await asyncio.wait_for(asyncio.gather(*streams), 60)
        assert found == [expected_tokens(p, 9, 60, VOCAB) for p in prompts]
        assert engine._output.loads == [0, 0]


async def test_requests_of_a_core_that_is_gone_for_good_go_on_with_another() -> None:
    prompts = [[i, i + 1, i + 2] for i in range(10)]
    async with several(2, max_restarts=0, delay_s=0.01) as engine:
        streams = [asyncio.create_task(tokens_of(engine, p, max_tokens=60)) for p in prompts]
        await asyncio.sleep(0.2)
        engine.cores[1].client.process.kill()
        found = await asyncio.wait_for(asyncio.gather(*streams), 60)
        assert found == [expected_tokens(p, 9, 60, VOCAB) for p in prompts]
        assert engine.is_alive and engine._output.loads == [0, 0]
        assert await tokens_of(engine, [5, 6]) == expected_tokens([5, 6], 9, 20, VOCAB)
        last = asyncio.create_task(tokens_of(engine, [1], max_tokens=400))
        await asyncio.sleep(0.1)
        engine.cores[0].client.process.kill()
        with pytest.raises(EngineDeadError, match="ended by SIGKILL"):
            await asyncio.wait_for(last, 30)
        assert not engine.is_alive


async def test_aborts_and_the_bound_of_the_queue() -> None:
    async with several(2, delay_s=0.02) as engine:
        busy = [asyncio.create_task(tokens_of(engine, [i], max_tokens=300)) for i in range(56)]
        await asyncio.sleep(0.2)
        with pytest.raises(QueueFullError, match="56 requests are running or waiting"):
            await tokens_of(engine, [1])
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        while (await engine.call("stats") or [0])[0]:
            await asyncio.sleep(0.01)
        assert engine.num_unfinished == 0


async def test_figures_come_with_the_cores_number() -> None:
    async with several(2) as engine:
        heard: list[tuple[int, int]] = []

        def listen(stats: SchedulerStats, core: int) -> None:
            heard.append((core, stats.kv_blocks_total))

        engine.add_stats_listener(listen)
        await asyncio.gather(*(tokens_of(engine, [i]) for i in range(8)))
        assert {core for core, _ in heard} == {0, 1} and {total for _, total in heard} == {64}
        state = await engine.call("state")
        assert state["num_blocks"] == 128 and state["max_num_seqs"] == 16 and len(state["block_map"]) == 128


def test_what_nobody_can_combine_stays_a_list() -> None:
    assert combine("dance", [1]) == 1 and combine("dance", [1, 2]) == [1, 2]
    assert combine("stats", [[1, 2, 3], [1]]) == [2, 2, 3]
