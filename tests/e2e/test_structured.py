"""Answers in a given shape through the whole engine, from a model that knows nothing: valid, and the same every way."""

import json
import re
import time
from typing import Any

import jsonschema
import pytest

from kvasir import LLM, SamplingParams, StructuredOutputsParams
from kvasir.errors import UserError
from kvasir.messages import RequestOutput
from tests.e2e.engines import Totals, engine, texts
from tests.structured.schemas import SCHEMAS

SUMS = 'start: expr\nexpr: term ("+" term)?\nterm: /[0-9]{1,2}/ | "(" expr ")"'
PATTERN = r"[A-Z][a-z]{2,5} (\d{3}|§{2})"
CHOICES = ["yes", "no", "perhaps not", "日本"]
LIST = {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 3, "maxItems": 5}
SHAPES: dict[str, dict[str, Any]] = {
    "schema": dict(json=SCHEMAS["nested objects"], disable_any_whitespace=True),
    "long": dict(json=LIST),
    "regex": dict(regex=PATTERN),
    "choice": dict(choice=CHOICES),
    "grammar": dict(grammar=SUMS),
}
OTHERS: dict[str, dict[str, Any]] = {
    "bound with penalties": dict(
        structured_outputs=StructuredOutputsParams(json=LIST), repetition_penalty=1.3, logprobs=2, temperature=0.8
    ),
    "bound and greedy": dict(structured_outputs=StructuredOutputsParams(json=LIST), temperature=0.0),
    "bound with min_tokens": dict(structured_outputs=StructuredOutputsParams(regex="[a-z]+"), min_tokens=20),
    "free": dict(ignore_eos=True),
    "free and greedy": dict(ignore_eos=True, temperature=0.0),
}
WAYS: dict[str, dict[str, Any]] = {
    "plain": dict(async_scheduling=False),
    "overlapped": dict(async_scheduling=True),
    "chunks": dict(async_scheduling=True, max_num_batched_tokens=16),
    "preempted": dict(async_scheduling=True, num_gpu_blocks_override=16, max_model_len=200, forecast_kv_growth=False),
    "preempted plain": dict(
        async_scheduling=False, num_gpu_blocks_override=16, max_model_len=200, forecast_kv_growth=False
    ),
}


def params_of(i: int, **fields: Any) -> SamplingParams:
    return SamplingParams(**{"temperature": 1.0, "seed": 300 + i, "max_tokens": 120, **fields})


ALL = [
    *(dict(structured_outputs=StructuredOutputsParams(**shape)) for shape in SHAPES.values()),
    *({"max_tokens": 60, **fields} for fields in OTHERS.values()),
]


def answers(way: str) -> tuple[list[RequestOutput], Totals]:
    prompts = texts(5, 30, 9, 44, 17, 26, 11, 38, 8, 20)
    with engine("qwen3", **WAYS[way]) as llm:
        totals = Totals(llm)
        outputs = llm.generate(prompts, [params_of(i, **f) for i, f in enumerate(ALL)], use_tqdm=False)
    return outputs, totals


@pytest.fixture(scope="module")
def plain() -> list[RequestOutput]:
    return answers("plain")[0]


def test_every_answer_has_its_shape(plain: list[RequestOutput]) -> None:
    found = dict(zip([*SHAPES, *OTHERS], (o.outputs[0] for o in plain), strict=True))
    assert {name: found[name].finish_reason for name in SHAPES} == dict.fromkeys(SHAPES, "stop")
    jsonschema.validate(json.loads(found["schema"].text), SCHEMAS["nested objects"])
    jsonschema.validate(json.loads(found["long"].text), LIST)
    assert re.fullmatch(PATTERN, found["regex"].text)
    assert found["choice"].text in CHOICES
    assert re.fullmatch(r"[0-9+()]+", found["grammar"].text)
    for name in ("bound with penalties", "bound and greedy"):
        if found[name].finish_reason == "stop":
            jsonschema.validate(json.loads(found[name].text), LIST)
    assert found["bound with penalties"].logprobs is not None
    assert len(found["bound with penalties"].logprobs) == len(found["bound with penalties"].token_ids)
    assert len(found["bound with min_tokens"].token_ids) > 20


@pytest.mark.parametrize("way", [w for w in WAYS if w != "plain"])
def test_the_same_every_way(way: str, plain: list[RequestOutput]) -> None:
    outputs, totals = answers(way)
    if way.startswith("preempted"):
        assert totals.num_preempted > 0
    for i, (expected, found) in enumerate(zip(plain, outputs, strict=True)):
        assert found.outputs[0].token_ids == expected.outputs[0].token_ids, ALL[i]


@pytest.mark.parametrize("overlap", [True, False])
def test_neighbours_are_as_they_are_without(overlap: bool) -> None:
    prompts = texts(20, 7, 31, 12)
    free = [params_of(i, ignore_eos=True, max_tokens=40) for i in range(4)]
    bound = params_of(9, structured_outputs=StructuredOutputsParams(json=LIST))
    with engine("llama", async_scheduling=overlap) as llm:
        alone = llm.generate(prompts, free, use_tqdm=False)
        beside = llm.generate([*prompts[:2], prompts[0], *prompts[2:]], [*free[:2], bound, *free[2:]], use_tqdm=False)
    del beside[2]
    assert [o.outputs[0].token_ids for o in beside] == [o.outputs[0].token_ids for o in alone]


@pytest.fixture(scope="module")
def llm() -> Any:
    with engine("qwen3") as llm:
        yield llm


def ask(llm: LLM, structure: StructuredOutputsParams, **fields: Any) -> RequestOutput:
    params = params_of(0, structured_outputs=structure, max_tokens=400, **fields)
    return llm.generate(texts(10), [params], use_tqdm=False)[0]


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(llm: LLM, name: str) -> None:
    output = ask(llm, StructuredOutputsParams(json=SCHEMAS[name]), n=3)
    for answer in output.outputs:
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.text), SCHEMAS[name])
    assert len(output.outputs) == 3


def test_n_answers_go_their_own_ways(llm: LLM) -> None:
    found = {answer.text for answer in ask(llm, StructuredOutputsParams(json=LIST), n=4).outputs}
    assert len(found) == 4


def test_after_the_end_token_all_is_free(llm: LLM) -> None:
    answer = ask(llm, StructuredOutputsParams(choice=["ab"]), ignore_eos=True, min_tokens=1, skip_special_tokens=False)
    assert answer.outputs[0].text.startswith("ab<|im_end|>")
    assert len(answer.outputs[0].token_ids) == 400


def test_an_answer_that_cannot_go_on_fails_alone(llm: LLM) -> None:
    """Only the end may follow, and min_tokens forbids it."""
    prompts = texts(10, 12)
    params = [
        params_of(0, structured_outputs=StructuredOutputsParams(choice=["ab"]), min_tokens=30),
        params_of(1, ignore_eos=True, max_tokens=10),
    ]
    stuck, other = llm.generate(prompts, params, use_tqdm=False)
    assert stuck.outputs[0].finish_reason == "error" and "No token could be chosen" in (stuck.error or "")
    assert other.error is None and len(other.outputs[0].token_ids) == 10


def test_a_bad_one_runs_nothing(llm: LLM) -> None:
    good = params_of(0)
    bad = params_of(1, structured_outputs=StructuredOutputsParams(json={"type": "object", "not": {}}))
    with pytest.raises(UserError, match=r'Unimplemented keys: \["not"\]'):
        llm.generate(texts(10, 10), [good, bad], use_tqdm=False)
    assert not llm.llm_engine.has_unfinished_requests()


def test_without_a_tokenizer() -> None:
    with engine("qwen3", skip_tokenizer_init=True) as llm, pytest.raises(UserError, match="without a tokenizer"):
        llm.generate([[10, 11]], params_of(0, structured_outputs=StructuredOutputsParams(regex="a")), use_tqdm=False)


def test_options_for_every_request() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    options = {"disable_any_whitespace": True, "disable_additional_properties": True}
    with engine("qwen3", structured_outputs_config=options) as llm:
        found = {a.text for a in ask(llm, StructuredOutputsParams(json=schema), n=4).outputs}
    assert found <= {'{"a":true}', '{"a":false}'}


def test_the_bundled_model_knows_what_to_say() -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    text = "Extract name and age as JSON: Maria is 34 years old and lives in Oslo."
    with engine("kvasir-demo") as llm:
        params = SamplingParams(temperature=0, max_tokens=60, structured_outputs=StructuredOutputsParams(json=schema))
        (output,) = llm.chat([{"role": "user", "content": text}], params, use_tqdm=False)
    assert output.outputs[0].text == '{"name": "Maria", "age": 34}'


def test_a_hundred_grammars_at_once(llm: LLM) -> None:
    started = time.perf_counter()
    prompts = texts(*[8] * 60)
    params = [
        params_of(i, structured_outputs=StructuredOutputsParams(regex=f"[a-z]{{{1 + i % 7}}}{i}")) for i in range(60)
    ]
    outputs = llm.generate(prompts, params, use_tqdm=False)
    for i, output in enumerate(outputs):
        assert re.fullmatch(f"[a-z]{{{1 + i % 7}}}{i}", output.outputs[0].text)
    assert time.perf_counter() - started < 60
