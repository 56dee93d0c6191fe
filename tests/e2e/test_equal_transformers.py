"""Every model, under every way of running it, says what transformers says: token by token, log-probability by
log-probability. Chunks, preemption, prefix hits and the overlapped loop may not change a thing in float32."""

import pytest

from kvasir import SamplingParams
from tests.e2e.engines import Totals, engine, random_prompts, reference_greedy
from tests.fixtures import CHECKPOINTS

NUM_TOKENS = 10
LENGTHS = [3, 17, 40, 64, 5, 90]
GREEDY = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=3, prompt_logprobs=2)
WAYS = {
    "plain": dict(async_scheduling=False),
    "overlapped": dict(async_scheduling=True),
    "chunks of 16": dict(max_num_batched_tokens=16, async_scheduling=True),
    "small pool": dict(num_gpu_blocks_override=11, max_model_len=160, forecast_kv_growth=False, async_scheduling=True),
    "small pool, chunks, plain": dict(
        num_gpu_blocks_override=11,
        max_model_len=160,
        forecast_kv_growth=False,
        max_num_batched_tokens=32,
        async_scheduling=False,
    ),
    "no prefix cache": dict(enable_prefix_caching=False, async_scheduling=True),
    "blocks of 8": dict(block_size=8, async_scheduling=True),
    "torch's attention": dict(attention_backend="cpu", async_scheduling=True),
    "reference attention": dict(attention_backend="reference", async_scheduling=False),
}


def check(model: str, prompts: list[list[int]], outputs: list) -> None:
    for prompt, output in zip(prompts, outputs, strict=True):
        tokens, logprobs = reference_greedy(model, prompt, NUM_TOKENS)
        answer = output.outputs[0]
        assert answer.token_ids == tokens
        assert answer.finish_reason == "length"
        for i, entry in enumerate(answer.logprobs):
            for token, found in entry.items():
                assert found.logprob == pytest.approx(logprobs[len(prompt) - 1 + i, token].item(), abs=2e-4)
            assert entry[tokens[i]].rank == 1
        if output.prompt_logprobs is not None:
            assert output.prompt_logprobs[0] is None
            assert len(output.prompt_logprobs) == len(prompt)
            for i, entry in enumerate(output.prompt_logprobs[1:]):
                for token, found in entry.items():
                    assert found.logprob == pytest.approx(logprobs[i, token].item(), abs=2e-4)
                assert prompt[i + 1] in entry


@pytest.mark.parametrize("model", CHECKPOINTS)
@pytest.mark.parametrize("way", ["overlapped", "chunks of 16"])
def test_each_model(model: str, way: str) -> None:
    prompts = random_prompts(3, LENGTHS[:4])
    with engine(model, **WAYS[way]) as llm:
        check(model, prompts, llm.generate(prompts, GREEDY, use_tqdm=False))


@pytest.mark.parametrize("model", ["qwen3", "mistral-swa"])
@pytest.mark.parametrize("way", WAYS)
def test_each_way(model: str, way: str) -> None:
    prompts = random_prompts(4, LENGTHS)
    with engine(model, **WAYS[way]) as llm:
        totals = Totals(llm)
        check(model, [prompts[2]], llm.generate([prompts[2]], GREEDY, use_tqdm=False))  # alone
        check(model, prompts, llm.generate(prompts, GREEDY, use_tqdm=False))  # in a ragged batch
        if way.startswith("small pool"):
            assert totals.num_preempted > 0


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("chunk", [16, 512])
def test_prefix_hits(overlap: bool, chunk: int) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=1)
    (shared,) = random_prompts(5, [70])
    prompts = [shared + own for own in random_prompts(6, [3, 20, 33])] + [shared[:40] + [11, 12], shared]
    with engine("llama", async_scheduling=overlap, max_num_batched_tokens=chunk) as llm:
        check("llama", prompts[:1], llm.generate(prompts[:1], params, use_tqdm=False))
        outputs = llm.generate(prompts, params, use_tqdm=False)
        check("llama", prompts, outputs)
        assert [o.num_cached_tokens for o in outputs] == [64, 64, 64, 32, 64]
        assert llm.reset_prefix_cache()
        assert llm.generate(prompts[:1], params, use_tqdm=False)[0].num_cached_tokens == 0


def test_salted_prefixes_are_not_shared() -> None:
    prompts = random_prompts(7, [50])
    with engine("llama") as llm:
        for salt, cached in (("a", 0), ("a", 48), ("b", 0), (None, 0), ("b", 48)):
            (output,) = llm.generate(prompts, GREEDY_FAST, use_tqdm=False, cache_salt=salt)
            assert output.num_cached_tokens == cached, salt


GREEDY_FAST = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True)
