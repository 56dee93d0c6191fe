"""The bundled model behind the server, asked by the official client: right answers, streamed and whole."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.http.test_live import process

GOLDEN = Path(__file__).parents[1] / "e2e" / "data" / "demo_golden.jsonl"
ALL = [json.loads(line) for line in GOLDEN.open(encoding="utf-8")]
ITEMS = [item for item in ALL if not item.get("tools")][::6]


@pytest.fixture(scope="module")
def client() -> Iterator[openai.OpenAI]:
    with process(model="kvasir-demo") as (url, _):
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, item: dict[str, Any], stream: bool) -> str | None:
    asked = dict(model="kvasir-demo", messages=item["messages"], temperature=0, max_tokens=600)
    if not stream:
        return client.chat.completions.create(**asked).choices[0].message.content
    chunks = client.chat.completions.create(**asked, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_sixteen_clients_get_right_answers(client: openai.OpenAI, stream: bool) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda item: ask(client, item, stream), ITEMS))
    wrong = [
        (i["messages"][-1]["content"], i["answer"], a) for i, a in zip(ITEMS, answers, strict=True) if a != i["answer"]
    ]
    assert not wrong, wrong[0]


def test_tools_are_called_as_the_client_expects(client: openai.OpenAI) -> None:
    items = [item for item in ALL if item["skill"] == "tool_call"][:6]
    assert items
    for item in items:
        asked = dict(model="kvasir-demo", messages=item["messages"], tools=item["tools"], temperature=0, max_tokens=200)
        choice = client.chat.completions.create(**asked).choices[0]
        (call,) = choice.message.tool_calls
        expected = json.loads(item["answer"].removeprefix("<tool_call>").removesuffix("</tool_call>"))
        assert choice.finish_reason == "tool_calls"
        assert (call.function.name, json.loads(call.function.arguments)) == (expected["name"], expected["arguments"])
        name, arguments = "", ""
        for chunk in client.chat.completions.create(**asked, stream=True):
            for piece in chunk.choices[0].delta.tool_calls or []:
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
        assert (name, arguments) == (call.function.name, call.function.arguments)


def test_without_parameters_the_answer_is_greedy(client: openai.OpenAI) -> None:
    answers = {
        client.chat.completions.create(model="kvasir-demo", messages=ITEMS[0]["messages"]).choices[0].message.content
        for _ in range(5)
    }
    assert answers == {ITEMS[0]["answer"]}
