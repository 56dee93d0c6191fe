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
ITEMS = [item for item in map(json.loads, GOLDEN.open(encoding="utf-8")) if not item.get("tools")][::6]


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


def test_without_parameters_the_answer_is_greedy(client: openai.OpenAI) -> None:
    answers = {
        client.chat.completions.create(model="kvasir-demo", messages=ITEMS[0]["messages"]).choices[0].message.content
        for _ in range(5)
    }
    assert answers == {ITEMS[0]["answer"]}
