"""Sampled text depends on the request alone: not on its neighbours, chunks, preemption or the loop."""

import pytest

from kvasir import SamplingParams
from kvasir.messages import ThinkingBudget
from tests.e2e.engines import Totals, engine, random_prompts

END_OF_THOUGHT = 7  # of the fixtures' tokenizer
KINDS = {
    "temperature": dict(temperature=0.9),
    "top-k": dict(temperature=1.0, top_k=7),
    "top-p": dict(temperature=1.1, top_p=0.8, min_p=0.02),
    "penalties": dict(temperature=0.7, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.3),
    "bias": dict(temperature=0.8, logit_bias={50: 3.0, 51: -100.0}, min_tokens=10),
    "allowed": dict(temperature=1.0, allowed_token_ids=list(range(100, 140))),
    "bad words": dict(temperature=0.6, bad_words=["the", " a"]),
    "thinking": dict(temperature=1.0, thinking=ThinkingBudget(9, END_OF_THOUGHT, inside=True)),
}
WAYS = {
    "plain": dict(async_scheduling=False),
    "overlapped": dict(async_scheduling=True),
    "chunks": dict(async_scheduling=True, max_num_batched_tokens=16),
    "preempted": dict(async_scheduling=True, num_gpu_blocks_override=16, max_model_len=160, forecast_kv_growth=False),
    "preempted plain": dict(
        async_scheduling=False, num_gpu_blocks_override=16, max_model_len=160, forecast_kv_growth=False
    ),
}


def answers(way: str) -> dict[str, list[int]]:
    prompts = random_prompts(11, [4, 30, 19, 44, 8, 25, 13, 17])
    params = [
        SamplingParams(seed=100 + i, max_tokens=24, ignore_eos=True, **kind) for i, kind in enumerate(KINDS.values())
    ]
    with engine("qwen3", **WAYS[way]) as llm:
        totals = Totals(llm)
        outputs = llm.generate(prompts, params, use_tqdm=False)
        if way.startswith("preempted"):
            assert totals.num_preempted > 0
        alone = llm.generate(prompts[3], params[3], use_tqdm=False)[0].outputs[0].token_ids
    found = {kind: o.outputs[0].token_ids for kind, o in zip(KINDS, outputs, strict=True)}
    assert found["penalties"] == alone
    assert all(100 <= t < 140 for t in found["allowed"])
    assert 51 not in found["bias"]
    assert END_OF_THOUGHT in found["thinking"][:10]
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, list[int]]:
    return answers("plain")


@pytest.mark.parametrize("way", [w for w in WAYS if w != "plain"])
def test_same_text_every_way(way: str, plain: dict[str, list[int]]) -> None:
    assert answers(way) == plain


def test_n_answers_differ_and_repeat() -> None:
    prompt = random_prompts(12, [20])[0]
    params = SamplingParams(n=4, temperature=1.0, seed=5, max_tokens=12, ignore_eos=True)
    with engine("llama") as llm:
        (first,) = llm.generate([prompt], params, use_tqdm=False)
        (again,) = llm.generate([prompt], params, use_tqdm=False)
    texts = [tuple(c.token_ids) for c in first.outputs]
    assert len(set(texts)) == 4
    assert texts == [tuple(c.token_ids) for c in again.outputs]
    assert [c.index for c in first.outputs] == [0, 1, 2, 3]


def test_stop_rules() -> None:
    prompt = random_prompts(13, [12])[0]
    with engine("llama") as llm:
        free = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=20, ignore_eos=True), use_tqdm=False)
        tokens, text = free[0].outputs[0].token_ids, free[0].outputs[0].text
        stop_at = next(i for i, t in enumerate(tokens) if i >= 5 and t not in tokens[:i])
        params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, stop_token_ids=[tokens[stop_at]])
        by_id = llm.generate([prompt], params, use_tqdm=False)[0].outputs[0]
        assert (by_id.token_ids, by_id.finish_reason, by_id.stop_reason) == (
            tokens[: stop_at + 1],
            "stop",
            tokens[stop_at],
        )
        word = text[7:10]
        params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, stop=word)
        by_text = llm.generate([prompt], params, use_tqdm=False)[0].outputs[0]
        assert (by_text.text, by_text.finish_reason, by_text.stop_reason) == (text[: text.index(word)], "stop", word)
        assert llm.llm_engine.client.call("stats").num_running == 0
