"""The bundled model's answers are right or wrong, so they test the whole engine: no way of running may change one.

The golden file holds held-out questions with the answer of the shipped weights in float32, found with transformers.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kvasir import LLM, SamplingParams
from tests.e2e.engines import Totals, engine

GOLDEN = [json.loads(line) for line in (Path(__file__).parent / "data" / "demo_golden.jsonl").open(encoding="utf-8")]
WAYS: dict[str, dict[str, Any]] = {
    "plain": dict(async_scheduling=False, max_num_seqs=64),
    "overlapped": dict(async_scheduling=True, max_num_seqs=64),
    "chunks of 32": dict(max_num_batched_tokens=32, max_num_seqs=16),
    "preempted": dict(num_gpu_blocks_override=160, max_model_len=2048, max_num_seqs=64, forecast_kv_growth=False),
    "no prefix cache": dict(enable_prefix_caching=False, max_num_seqs=64),
    "priority": dict(scheduling_policy="priority", max_num_seqs=16),
}


def ask(llm: LLM, items: list[dict[str, Any]], **params: Any) -> list[Any]:
    tokenizer = llm.get_tokenizer()
    prompts = [
        tokenizer.encode(
            tokenizer.apply_chat_template(item["messages"], tools=item.get("tools"), add_generation_prompt=True),
            add_special_tokens=False,
        )
        for item in items
    ]
    sampling = SamplingParams(temperature=0.0, max_tokens=600, **params)
    return llm.generate([{"prompt_token_ids": p} for p in prompts], sampling, use_tqdm=False)


@pytest.mark.parametrize("way", WAYS)
def test_every_answer_every_way(way: str) -> None:
    with engine("kvasir-demo", **WAYS[way]) as llm:
        totals = Totals(llm)
        outputs = ask(llm, GOLDEN)
        if way == "preempted":
            assert totals.num_preempted > 0
    wrong = [
        (item["skill"], item["messages"][-1]["content"], item["answer"], output.outputs[0].text)
        for item, output in zip(GOLDEN, outputs, strict=True)
        if output.outputs[0].text != item["answer"] or output.outputs[0].finish_reason != "stop"
    ]
    assert not wrong, f"{len(wrong)} of {len(GOLDEN)}; the first: {wrong[0]}"


def test_asked_again_the_prefix_is_found_and_the_answer_the_same() -> None:
    items = [item for item in GOLDEN if len(str(item["messages"])) > 400][:20]
    with engine("kvasir-demo") as llm:
        ask(llm, items)
        again = ask(llm, items)
    assert [o.outputs[0].text for o in again] == [item["answer"] for item in items]
    assert all(o.num_cached_tokens > 0 for o in again)


def test_the_file_covers_every_skill_and_long_texts() -> None:
    skills = Counter(item["skill"] for item in GOLDEN)
    assert len(skills) >= 12
    assert max(len(str(item["messages"])) for item in GOLDEN) > 1000
    assert max(len(item["answer"]) for item in GOLDEN) > 150
    assert any(item.get("tools") for item in GOLDEN)
    assert any(len(item["messages"]) > 2 for item in GOLDEN)
