"""Answers in a given shape over HTTP, from the bundled model, as the official client asks for them."""

import json
import re
import threading
import time
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pydantic
import pytest

from tests.http.test_live import process

MARIA = [{"role": "user", "content": "Extract name and age as JSON: Maria is 34 years old and lives in Oslo."}]
OSLO = [{"role": "user", "content": "What is the weather in Oslo?"}]


class Person(pydantic.BaseModel):
    name: str
    age: int


class Mood(Enum):
    good = "good"
    bad = "bad"


class Record(pydantic.BaseModel):
    kind: Literal["record"]
    mood: Mood
    owner: Person | None
    tags: list[Literal["a", "b"]] = pydantic.Field(min_length=1, max_length=3)


def tool(name: str, properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


TOOLS = [
    tool("get_weather", {"city": {"type": "string", "maxLength": 30}}),
    tool("get_time", {"zone": {"enum": ["utc", "cet"]}, "seconds": {"type": "boolean"}}),
]
SCHEMAS = {t["function"]["name"]: {**t["function"]["parameters"], "additionalProperties": False} for t in TOOLS}
NAMED = {"type": "function", "function": {"name": "get_time"}}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with process(model="kvasir-demo") as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, messages: Any = MARIA, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "kvasir-demo", "messages": messages, "max_tokens": 200, **more})


def test_parse_helper(client: openai.OpenAI) -> None:
    for model, temperature in ((Person, 0), (Record, 0), (Record, 1.2)):
        answer = client.chat.completions.parse(
            model="kvasir-demo", messages=MARIA, response_format=model, max_tokens=200, temperature=temperature, n=2
        )
        for choice in answer.choices:
            assert choice.finish_reason == "stop" and isinstance(choice.message.parsed, model)
    assert (
        Person(name="Maria", age=34)
        == client.chat.completions.parse(model="kvasir-demo", messages=MARIA, response_format=Person)
        .choices[0]
        .message.parsed
    )


def test_parse_helper_streams(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="kvasir-demo", messages=MARIA, response_format=Person) as stream:
        for _ in stream:
            pass
        assert stream.get_final_completion().choices[0].message.parsed == Person(name="Maria", age=34)


def test_parse_helper_with_tools(client: openai.OpenAI) -> None:
    class GetWeather(pydantic.BaseModel):
        city: str

    tools = [openai.pydantic_function_tool(GetWeather, name="get_weather")]
    for choice in ("auto", "required"):
        answer = client.chat.completions.parse(model="kvasir-demo", messages=OSLO, tools=tools, tool_choice=choice)
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.function.parsed_arguments == GetWeather(city="Oslo")


TAG = {"type": "tag", "begin": "<a>", "content": {"type": "regex", "pattern": "[xy]{3}"}, "end": "</a>"}
FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"response_format": {"type": "json_object"}}, r"\{.*\}"),
    ({"guided_regex": r"[A-Z][a-z]{2,8}"}, r"[A-Z][a-z]{2,8}"),
    ({"guided_choice": ["yes", "no"]}, "yes|no"),
    ({"guided_grammar": 'root ::= "<" [a-z]+ ">"'}, "<[a-z]+>"),
    ({"guided_json": {"type": "integer"}}, r"-?\d+"),
    ({"guided_json": '{"type": "boolean"}'}, "true|false"),
    ({"structured_outputs": {"regex": "[01]{8}"}}, "[01]{8}"),
    ({"structured_outputs": {"json": {"enum": [1, 2]}, "disable_any_whitespace": True}}, "1|2"),
    ({"response_format": {"type": "structural_tag", "format": TAG}}, "<a>[xy]{3}</a>"),
]


@pytest.mark.parametrize(("fields", "pattern"), FIELDS)
def test_every_field_on_both_routes(url: str, fields: dict[str, Any], pattern: str) -> None:
    common = {"max_tokens": 80, "temperature": 1.0, "seed": 5, **fields}
    chat = httpx.post(f"{url}/v1/chat/completions", json={"messages": MARIA, **common}, timeout=60).json()
    text = httpx.post(f"{url}/v1/completions", json={"prompt": "Say", **common}, timeout=60).json()
    for choice, said in (
        (chat["choices"][0], chat["choices"][0]["message"]["content"]),
        (text["choices"][0], text["choices"][0]["text"]),
    ):
        if choice["finish_reason"] == "stop":
            assert re.fullmatch(pattern, said, re.DOTALL), said
    assert chat["choices"][0]["finish_reason"] == "stop"


def of_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": {"type": "xml"}}, "response_format", "json_schema or structural_tag, got 'xml'"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "needs json_schema.schema"),
    ({"response_format": {"type": "structural_tag"}}, "structural_tag", "must have format"),
    (of_schema({"type": "foo"}), "structured_outputs", "Invalid type: foo"),
    (of_schema({"not": {}}), "structured_outputs", 'Unimplemented keys: ["not"]'),
    ({"guided_regex": "(a"}, "structured_outputs", "unclosed group"),
    ({"guided_grammar": "start: x"}, "structured_outputs", 'unknown name: "x"'),
    ({"guided_choice": []}, "", ""),
    ({"guided_choice": ["a"] * 20_000}, "guided_choice", "1 to 10000"),
    ({"guided_json": "{"}, "guided_json", "no valid JSON"),
    ({"guided_json": {"enum": ["x" * 300_000]}}, "guided_json", "262144"),
    ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice", "keep one"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "exactly one"),
    ({"structured_outputs": {"regexp": "a"}}, "structured_outputs", "'regexp' is none of them"),
    ({"structured_outputs": {"regex": 5}}, "structured_outputs", "regex"),
    ({"structured_outputs": {}}, "structured_outputs", "got none"),
    (of_schema({"type": "integer", "multipleOf": 99999989}), "structured_outputs", "more than 5 s"),
]


def test_what_is_wrong_is_said_and_nobody_else_notices(url: str) -> None:
    def post(body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{url}/v1/chat/completions", json={"messages": MARIA, "max_tokens": 5, **body}, timeout=60)

    for fields, param, text in WRONG:
        response = post(fields)
        if not param:
            assert response.status_code == 200
            continue
        error = response.json()["error"]
        assert (response.status_code, error["type"]) == (400, "invalid_request_error"), (fields, error)
        assert error["param"] == param and text in error["message"], error
        streamed = post({**fields, "stream": True})
        assert streamed.status_code == 400 and streamed.json() == response.json()
    assert post({}).status_code == 200


def test_a_slow_schema_holds_up_nobody(url: str) -> None:
    slow = {"messages": MARIA, "guided_json": {"type": "integer", "multipleOf": 99999971}}
    seconds: list[float] = []

    def hang() -> None:
        started = time.perf_counter()
        assert httpx.post(f"{url}/v1/chat/completions", json=slow, timeout=60).status_code == 400
        seconds.append(time.perf_counter() - started)

    httpx.post(f"{url}/v1/chat/completions", json={"messages": MARIA, "guided_choice": ["warm"]}, timeout=60)
    thread = threading.Thread(target=hang)
    thread.start()
    time.sleep(0.2)
    started = time.perf_counter()
    for body in ({"max_tokens": 20}, {"guided_regex": "[a-z]{4}"}, {"response_format": {"type": "json_object"}}):
        assert httpx.post(f"{url}/v1/chat/completions", json={"messages": MARIA, **body}).status_code == 200
    others = time.perf_counter() - started
    thread.join()
    assert others < 3 < seconds[0]


def streamed(client: openai.OpenAI, **kwargs: Any) -> tuple[str | None, list[tuple[str, str]], str | None]:
    content, finish, calls = "", None, []
    for chunk in ask(client, stream=True, **kwargs):
        choice = chunk.choices[0]
        content += choice.delta.content or ""
        for piece in choice.delta.tool_calls or []:
            if piece.function.name:
                calls.append([piece.function.name, ""])
            calls[-1][1] += piece.function.arguments or ""
        finish = choice.finish_reason or finish
    return content or None, [(name, arguments) for name, arguments in calls], finish


@pytest.mark.parametrize("messages", [OSLO, MARIA], ids=["apt", "beside the point"])
@pytest.mark.parametrize("choice", ["required", NAMED], ids=["required", "named"])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_forced_calls(client: openai.OpenAI, messages: Any, choice: Any, temperature: float) -> None:
    asked = dict(messages=messages, tools=TOOLS, tool_choice=choice, temperature=temperature, seed=3)
    whole = ask(client, **asked).choices[0]
    calls = [(c.function.name, c.function.arguments) for c in whole.message.tool_calls]
    assert (whole.message.content, whole.finish_reason) == (None, "tool_calls")
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), SCHEMAS[name])
    if choice is NAMED:
        assert [name for name, _ in calls] == ["get_time"]
    if messages is OSLO and choice == "required" and not temperature:
        assert calls == [("get_weather", '{"city": "Oslo"}')]
    assert streamed(client, **asked) == (None, calls, "tool_calls")


def test_one_call_only(client: openai.OpenAI) -> None:
    for seed in range(4):
        answer = ask(client, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=1.8, seed=seed)
        assert len(answer.choices[0].message.tool_calls) == 1


def test_a_schema_and_tools(client: openai.OpenAI) -> None:
    """The model calls, or answers in the shape."""
    schema = {"type": "json_schema", "json_schema": {"name": "p", "schema": Person.model_json_schema()}}
    asked = dict(tools=TOOLS, response_format=schema, temperature=0)
    assert json.loads(ask(client, MARIA, **asked).choices[0].message.content) == {"name": "Maria", "age": 34}
    (call,) = ask(client, OSLO, **asked).choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert ask(client, OSLO, **asked, tool_choice="none").choices[0].message.tool_calls is None


@pytest.mark.parametrize("name", ["get_weather", "get_time"])
def test_strict_tools_get_right_arguments(client: openai.OpenAI, name: str) -> None:
    strict = [{**t, "function": {**t["function"], "strict": True}} for t in TOOLS]
    for seed in range(6):
        messages = [{"role": "user", "content": f"Call {name} with zone = moss and n = 12."}]
        answer = ask(client, messages, tools=strict, temperature=0.9, seed=seed).choices[0]
        for call in answer.message.tool_calls or []:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


def test_stop_strings_and_logprobs(client: openai.OpenAI) -> None:
    answer = ask(client, response_format={"type": "json_object"}, temperature=0, stop=[": "], logprobs=True)
    assert answer.choices[0].message.content == '{"name"'
    assert len(answer.choices[0].logprobs.content) > 1


def test_the_other_apis(url: str) -> None:
    """They are translated to chat, so what holds there holds here; one question each shows that it arrives."""
    schema = Person.model_json_schema()
    fmt = {"type": "json_schema", "name": "person", "schema": schema}
    body = {"model": "kvasir-demo", "input": MARIA[0]["content"], "temperature": 0, "text": {"format": fmt}}
    (item,) = httpx.post(f"{url}/v1/responses", json=body, timeout=60).json()["output"]
    assert json.loads(item["content"][0]["text"]) == {"name": "Maria", "age": 34}
    weather = {"type": "function", "name": "get_time", "parameters": SCHEMAS["get_time"]}
    body = {"model": "kvasir-demo", "input": "Hello", "tools": [weather], "tool_choice": "required"}
    (item,) = httpx.post(f"{url}/v1/responses", json=body, timeout=60).json()["output"]
    assert item["type"] == "function_call"
    jsonschema.validate(json.loads(item["arguments"]), SCHEMAS["get_time"])
    asked = {"model": "kvasir-demo", "messages": MARIA, "max_tokens": 60, "temperature": 0}
    config = {"format": {"type": "json_schema", "schema": schema}}
    said = httpx.post(f"{url}/v1/messages", json={**asked, "output_config": config}, timeout=60).json()
    assert json.loads(said["content"][0]["text"]) == {"name": "Maria", "age": 34}
    tools = [{"name": "get_time", "input_schema": SCHEMAS["get_time"]}]
    forced = {**asked, "tools": tools, "tool_choice": {"type": "any"}}
    (block,) = httpx.post(f"{url}/v1/messages", json=forced, timeout=60).json()["content"]
    assert (block["type"], block["name"]) == ("tool_use", "get_time")
    jsonschema.validate(block["input"], SCHEMAS["get_time"])
