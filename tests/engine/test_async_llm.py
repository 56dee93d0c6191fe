"""AsyncLLM over a core in a real process of its own; the executor is the fake one, so that it starts at once."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvasir.engine.async_llm import AsyncLLM
from kvasir.engine.input import InputProcessor
from kvasir.engine.supervised_core import SupervisedCore
from kvasir.engine.terms import RequestTerms
from kvasir.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    EngineDeadError,
    EngineError,
    PromptTooLongError,
    QueueFullError,
)
from kvasir.messages import RequestOutputKind, SamplingParams
from kvasir.testing.byte_tokenizer import ByteTokenizer
from kvasir.testing.fake_executor import expected_tokens
from tests.engine.cores import VOCAB, supervisor


@contextlib.asynccontextmanager
async def async_llm(max_restarts: int = 0, **more: Any) -> AsyncIterator[AsyncLLM]:
    """`more`: of `supervisor` and of the fake core."""
    watched = supervisor(max_restarts, **more)
    watched.launch()
    ready = watched.wait_ready()
    scheduler = SimpleNamespace(
        max_num_seqs=8,
        max_queued_requests=more.get("max_queued_requests", 1000),
        max_queued_tokens=1 << 20,
        max_queue_wait=0.0,
    )
    engine = AsyncLLM(
        SimpleNamespace(scheduler=scheduler),
        [SupervisedCore(watched)],
        ready,
        InputProcessor(None, max_model_len=ready.max_model_len, vocab_size=VOCAB, eos_token_ids=()),
        None,
    )
    try:
        yield engine
    finally:
        engine.shutdown()
        assert engine.cores[0].client.process.poll() is not None


def params(max_tokens: int = 20, **more: Any) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, seed=9, output_kind=RequestOutputKind.DELTA, detokenize=False, **more)


async def tokens_of(engine: AsyncLLM, prompt: list[int], **more: Any) -> list[int]:
    found: list[int] = []
    async for output in engine.generate(prompt, params(**more)):
        found += output.outputs[0].token_ids
    return found


async def test_many_streams_at_once_are_each_exact() -> None:
    prompts = [[i, i + 1, i + 2] * (1 + i % 5) for i in range(60)]
    async with async_llm(num_blocks=60) as engine:
        found = await asyncio.gather(*(tokens_of(engine, p) for p in prompts))
        assert found == [expected_tokens(p, 9, 20, VOCAB) for p in prompts]
        assert engine.num_unfinished == 0
        assert await engine.call("check_integrity") is None


async def test_leaving_a_stream_frees_its_blocks() -> None:
    async with async_llm(delay_s=0.01) as engine:
        stream = engine.generate([1, 2, 3], params(400))
        await anext(stream)
        await stream.aclose()
        while (await engine.call("stats") or [0])[0]:  # num_running comes first
            await asyncio.sleep(0.01)
        assert engine.num_unfinished == 0
        assert await tokens_of(engine, [5, 6]) == expected_tokens([5, 6], 9, 20, VOCAB)


async def test_abort_ends_the_stream_with_that_reason() -> None:
    async with async_llm(delay_s=0.01) as engine:
        outputs = []
        async for output in engine.generate([1, 2, 3], params(400), "mine"):
            outputs.append(output)
            if len(outputs) == 2:
                await engine.abort("mine")
        assert outputs[-1].finished
        assert outputs[-1].outputs[0].finish_reason == "abort"


async def test_a_dead_core_is_told_to_every_stream_at_once() -> None:
    async with async_llm(delay_s=0.02) as engine:
        streams = [asyncio.create_task(tokens_of(engine, [i, 2, 3], max_tokens=400)) for i in range(20)]
        await asyncio.sleep(0.3)
        engine.cores[0].client.process.kill()
        results = await asyncio.wait_for(asyncio.gather(*streams, return_exceptions=True), 10)
        assert all(isinstance(r, EngineDeadError) for r in results)
        assert not engine.is_alive
        with pytest.raises(EngineDeadError, match="engine core"):
            await tokens_of(engine, [1])
        with pytest.raises(EngineDeadError):
            await engine.check_health()


@pytest.mark.parametrize("seed", range(3))
async def test_streams_survive_killed_cores_without_a_lost_or_repeated_token(seed: int) -> None:
    rng = random.Random(seed)
    prompts = [[i, i + 1, i + 2] for i in range(12)]
    async with async_llm(max_restarts=3, delay_s=0.01) as engine:
        streams = [asyncio.create_task(tokens_of(engine, p, max_tokens=60)) for p in prompts[:8]]
        for _ in range(3):
            await asyncio.sleep(rng.uniform(0.05, 0.3))
            with contextlib.suppress(EngineDeadError):  # it may be down already
                await engine.check_health()
                engine.cores[0].client.process.kill()
        streams += [asyncio.create_task(tokens_of(engine, p, max_tokens=60)) for p in prompts[8:]]  # asked while down
        found = await asyncio.wait_for(asyncio.gather(*streams), 60)
        assert found == [expected_tokens(p, 9, 60, VOCAB) for p in prompts]
        assert await engine.call("check_integrity") is None


async def test_what_was_left_while_the_core_was_down_is_not_resumed() -> None:
    async with async_llm(max_restarts=1, delay_s=0.02) as engine:
        left = asyncio.create_task(tokens_of(engine, [1, 2], max_tokens=200))
        stays = asyncio.create_task(tokens_of(engine, [3, 4], max_tokens=30))
        await asyncio.sleep(0.2)
        engine.cores[0].client.process.kill()
        await asyncio.sleep(0.05)
        left.cancel()
        assert await asyncio.wait_for(stays, 30) == expected_tokens([3, 4], 9, 30, VOCAB)
        assert (await engine.call("stats") or [0])[0] == 0


async def test_deaths_beyond_the_bound_end_it() -> None:
    async with async_llm(max_restarts=1, delay_s=0.02) as engine:
        stream = asyncio.create_task(tokens_of(engine, [1], max_tokens=400))
        for _ in range(2):
            await asyncio.sleep(0.3)
            while not engine.cores[0].is_up:
                await asyncio.sleep(0.05)
            engine.cores[0].client.process.kill()
        with pytest.raises(EngineDeadError, match="SIGKILL.*max-core-restarts 1"):
            await asyncio.wait_for(stream, 30)
        assert not engine.is_alive


async def test_refusals_come_before_anything_is_queued() -> None:
    async with async_llm(delay_s=0.01, max_queued_requests=4) as engine:
        with pytest.raises(PromptTooLongError, match=r"600.*512"):
            await tokens_of(engine, [1] * 600)
        busy = [asyncio.create_task(tokens_of(engine, [i], max_tokens=300)) for i in range(12)]
        await asyncio.sleep(0.1)
        with pytest.raises(QueueFullError, match="12 requests are running or waiting"):
            await tokens_of(engine, [1])
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        assert await tokens_of(engine, [1, 2]) == expected_tokens([1, 2], 9, 20, VOCAB)


async def test_a_deadline_ends_the_request_and_frees_its_blocks() -> None:
    async with async_llm(delay_s=0.01) as engine:
        for n in (1, 3):
            started = time.monotonic()
            got: list[int] = []
            with pytest.raises(DeadlineError, match="its time was up"):
                async for output in engine.generate(
                    [1, 2, 3], params(400, n=n), terms=RequestTerms(deadline=time.time() + 0.3)
                ):
                    got += output.outputs[0].token_ids
            assert 0.25 < time.monotonic() - started < 3.0 and got
            assert engine.num_unfinished == engine.admission.num_unfinished == engine.admission.num_waiting_tokens == 0
            while (await engine.call("stats") or [0])[0]:
                await asyncio.sleep(0.01)
        assert await engine.call("check_integrity") is None


async def test_a_deadline_passes_also_for_a_caller_that_does_not_read() -> None:
    async with async_llm(delay_s=0.01) as engine:
        stream = engine.generate([1, 2], params(400), terms=RequestTerms(deadline=time.time() + 0.3))
        await anext(stream)
        await asyncio.sleep(0.6)
        assert engine.num_unfinished == 0
        with pytest.raises(DeadlineError):
            await anext(stream)


async def test_a_queue_too_long_for_the_deadline_is_refused_at_once() -> None:
    async with async_llm(delay_s=0.02) as engine:
        busy = [asyncio.create_task(tokens_of(engine, [i], max_tokens=40)) for i in range(40)]
        await asyncio.sleep(1.5)
        assert engine.admission.expected_wait_s() > 0.2
        with pytest.raises(CapacityError, match="this one has"):
            engine.check_room(deadline=time.time() + 0.05)
        engine.check_room(deadline=time.time() + 60)
        await asyncio.gather(*busy)
        assert engine.admission.num_waiting == engine.admission.num_unfinished == 0


async def test_control_errors_are_the_callers() -> None:
    async with async_llm() as engine:
        with pytest.raises(EngineError, match="unknown control call 'dance'"):
            await engine.call("dance")
        assert await engine.reset_prefix_cache()


def test_a_core_that_refuses_its_configuration_says_why() -> None:
    watched = supervisor(num_blocks=0)
    watched.launch()
    with pytest.raises(ConfigError, match="0 blocks"):
        watched.wait_ready()
    watched.close()


def test_tokens_with_text() -> None:
    async def run() -> str:
        watched = supervisor()
        watched.launch()
        ready = watched.wait_ready()
        tokenizer = ByteTokenizer()
        engine = AsyncLLM(
            SimpleNamespace(
                scheduler=SimpleNamespace(
                    max_num_seqs=8, max_queued_requests=8, max_queued_tokens=99, max_queue_wait=0.0
                )
            ),
            [SupervisedCore(watched)],
            ready,
            InputProcessor(tokenizer, max_model_len=512, vocab_size=VOCAB, eos_token_ids=(257,)),
            tokenizer,
        )
        text = ""
        more = SamplingParams(max_tokens=30, seed=9, output_kind=RequestOutputKind.DELTA)
        async for output in engine.generate("hello", more):
            text += output.outputs[0].text
        engine.shutdown()
        return text

    ids = expected_tokens(list(b"hello"), 9, 30, VOCAB)
    assert asyncio.run(run()) == ByteTokenizer().decode(ids[: ids.index(257)] if 257 in ids else ids)
