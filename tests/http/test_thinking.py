"""`thinking_token_budget` on a real engine: the thought ends in time, and the answer that was asked for follows it."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest

from tests.http.test_live import process

MODEL = "kvasir-demo"
# The bundled model does not think by itself: the prompt puts it into a thought, and it writes an answer there.
THOUGHT: list[Any] = [
    {"role": "user", "content": "Count from 1 to 20."},
    {"role": "assistant", "content": "<think>"},
]
CONTINUED = {"continue_final_message": True, "add_generation_prompt": False, "skip_special_tokens": False}
LEAD = {"ignore_eos": True, "stop_token_ids": [], "min_tokens": 30}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with process("--reasoning-parser", "qwen3", model=MODEL) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, budget: int | None, **more: Any) -> Any:
    extra = {**CONTINUED, **LEAD, "return_token_ids": True, "thinking_token_budget": budget, **more.pop("extra", {})}
    asked = {"model": MODEL, "messages": THOUGHT, "temperature": 0, "max_tokens": 40, "extra_body": extra, **more}
    return client.chat.completions.create(**asked)


def end_id(client: openai.OpenAI) -> int:
    """`</think>`, as the server's tokenizer has it."""
    (token_id,) = client.post("/../tokenize", body={"prompt": "</think>"}, cast_to=dict[str, Any])["tokens"]
    return token_id


@pytest.mark.parametrize("budget", [0, 1, 8])
def test_a_thought_ends_in_time(client: openai.OpenAI, budget: int) -> None:
    free = ask(client, None).choices[0]
    assert free.message.content is None and free.message.reasoning, "without a budget it never stops thinking"
    whole = ask(client, budget).choices[0]
    ids = whole.model_extra["token_ids"]
    assert ids.index(end_id(client)) == budget
    assert ids[:budget] == free.model_extra["token_ids"][:budget], "until then it writes what it would have written"
    chunks = [c.choices[0].delta for c in ask(client, budget, stream=True)]
    assert "".join(c.content or "" for c in chunks) == (whole.message.content or "")
    reasoning = "".join((c.model_extra or {}).get("reasoning") or "" for c in chunks)
    assert reasoning == whole.message.model_extra.get("reasoning", "") and free.message.reasoning.startswith(reasoning)


def test_the_shape_comes_after_the_thought(client: openai.OpenAI) -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"n": {"type": "integer", "maximum": 99}},
        "required": ["n"],
    }
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    choice = ask(client, 3, response_format=form, extra={"min_tokens": 0, "ignore_eos": False}, max_tokens=60).choices[
        0
    ]
    assert choice.finish_reason == "stop" and set(json.loads(choice.message.content)) == {"n"}
    assert choice.model_extra["token_ids"].index(end_id(client)) == 3


def test_the_messages_api_has_it_as_budget_tokens(url: str) -> None:
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    message = client.messages.create(
        model=MODEL, max_tokens=40, messages=THOUGHT, thinking={"type": "enabled", "budget_tokens": 5},
        extra_body={**LEAD, "temperature": 0},
    )  # fmt: skip
    assert message.content[0].type == "thinking" and message.content[1].type == "text"


def test_the_responses_api_takes_the_field(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model=MODEL, input=THOUGHT, temperature=0, max_output_tokens=40,
        extra_body={**LEAD, "continue_final_message": True, "thinking_token_budget": 5},
    )  # fmt: skip
    assert [item.type for item in answer.output][:2] == ["reasoning", "message"]


def test_wrong_budgets(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="between 0") as caught:
        ask(client, -1)
    assert caught.value.param == "thinking_token_budget"
    with pytest.raises(openai.BadRequestError, match="send a chat"):
        client.completions.create(model=MODEL, prompt="x", extra_body={"thinking_token_budget": 1})
