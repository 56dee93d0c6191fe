"""The clients that people have, against `kvasir serve` with the bundled model: it calls a tool, is told, and answers.

The text of a question matters to so small a model; these are among those that it answers rightly.
"""

import json
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import openai
import pydantic
import pytest

from tests.http import response_events
from tests.http.test_live import process

MODEL = "kvasir-demo"
QUESTION, ANSWER = "What is the capital of Norway?", "Oslo"
WEATHER = "What is the weather in Oslo?"
FUNCTION: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
RESULT = '{"temperature": 3, "sky": "rainy"}'
TOLD = "It is 3 degrees and rainy in Oslo."


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with process(model=MODEL) as (url, _):
        yield url


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture
async def async_client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


# -- openai: chat ---------------------------------------------------------------------------------------------


def test_openai_chat_tools(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": WEATHER}]
    asked: dict[str, Any] = {"model": MODEL, "tools": [{"type": "function", "function": FUNCTION}], "temperature": 0}
    choice = client.chat.completions.create(messages=messages, **asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    assert client.chat.completions.create(messages=messages, **asked).choices[0].message.content == TOLD


def test_openai_stream_helper(client: openai.OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {**FUNCTION, "strict": True}}]
    messages: Any = [{"role": "user", "content": WEATHER}]
    with client.chat.completions.stream(model=MODEL, messages=messages, tools=tools, temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_completion()
    (call,) = final.choices[0].message.tool_calls
    assert call.function.parsed_arguments == {"city": "Oslo"}
    deltas = [e.arguments_delta for e in events if e.type == "tool_calls.function.arguments.delta"]
    assert "".join(deltas) == call.function.arguments  # on a busy machine all of it may be one delta


async def test_openai_async(async_client: openai.AsyncOpenAI) -> None:
    messages: Any = [{"role": "user", "content": QUESTION}]
    stream = await async_client.chat.completions.create(
        model=MODEL, messages=messages, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == ANSWER
    whole = await async_client.chat.completions.create(model=MODEL, messages=messages, temperature=0)
    assert whole.choices[0].message.content == ANSWER
    assert whole.usage.completion_tokens == chunks[-1].usage.completion_tokens


# -- openai: responses ----------------------------------------------------------------------------------------


def test_openai_responses(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": MODEL, "tools": [{"type": "function", **FUNCTION}], "temperature": 0}
    first = client.responses.create(input=WEATHER, **asked)
    (call,) = first.output
    assert call.type == "function_call"
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Oslo"})
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
    by_id = client.responses.create(input=[result], previous_response_id=first.id, **asked)
    by_items = client.responses.create(input=[{"role": "user", "content": WEATHER}, *first.output, result], **asked)
    assert by_id.output_text == by_items.output_text == TOLD


def test_openai_responses_stream(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": MODEL, "input": WEATHER, "tools": [{"type": "function", **FUNCTION}], "temperature": 0
    }  # fmt: skip
    streamed = response_events.check(client.responses.create(**asked, stream=True))
    assert json.loads(streamed.output[0].arguments) == {"city": "Oslo"}
    with client.responses.stream(**asked) as stream:
        assert [e.type for e in stream if e.type.endswith("arguments.done")] == [
            "response.function_call_arguments.done"
        ]
        assert stream.get_final_response().output[0].arguments == streamed.output[0].arguments


async def test_openai_responses_in_the_background(async_client: openai.AsyncOpenAI) -> None:
    started = await async_client.responses.create(model=MODEL, input=QUESTION, temperature=0, background=True)
    events = [event async for event in await async_client.responses.retrieve(started.id, stream=True)]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[-1].response.output_text == ANSWER
    assert (await async_client.responses.retrieve(started.id)).output_text == ANSWER


def test_openai_responses_parse(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model=MODEL, input=PERSON, text_format=Person, temperature=0)
    assert parsed.output_parsed == MARIA


# -- anthropic ------------------------------------------------------------------------------------------------

TOOL = {"name": FUNCTION["name"], "description": FUNCTION["description"], "input_schema": FUNCTION["parameters"]}


def test_anthropic(url: str) -> None:
    anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")
    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    messages: list[Any] = [{"role": "user", "content": WEATHER}]
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 200, "tools": [TOOL], "extra_body": {"temperature": 0}}
    first = client.messages.create(messages=messages, **asked)
    (use,) = first.content
    assert (use.type, use.name, use.input, first.stop_reason) == (
        "tool_use", "get_weather", {"city": "Oslo"}, "tool_use"
    )  # fmt: skip
    with client.messages.stream(messages=messages, **asked) as stream:
        assert stream.get_final_message().content[0].input == use.input
    result = {"type": "tool_result", "tool_use_id": use.id, "content": RESULT}
    messages += [{"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    with client.messages.stream(messages=messages, **asked) as stream:
        assert "".join(stream.text_stream) == TOLD
    counted = client.messages.count_tokens(model=MODEL, messages=messages, tools=[TOOL])
    last = client.messages.create(messages=messages, **asked).usage
    assert counted.input_tokens == last.input_tokens + last.cache_read_input_tokens


async def test_anthropic_async(url: str) -> None:
    anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")
    async with anthropic.AsyncAnthropic(base_url=url, api_key="none", max_retries=0) as client:
        asked: dict[str, Any] = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": QUESTION}]}
        async with client.messages.stream(**asked, extra_body={"temperature": 0}) as stream:
            assert "".join([text async for text in stream.text_stream]) == ANSWER
        parsed = await client.messages.create(
            model=MODEL, max_tokens=200, messages=[{"role": "user", "content": WEATHER}], tools=[TOOL],
            tool_choice={"type": "any"}, extra_body={"temperature": 0},
        )  # fmt: skip
    assert (parsed.content[0].type, parsed.content[0].input) == ("tool_use", {"city": "Oslo"})


# -- litellm, langchain, instructor ---------------------------------------------------------------------------


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm", "anthropic"])
def test_litellm(url: str, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would ask the network for prices
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    pytest.importorskip("mcp", reason="litellm needs mcp for tools, which is not installed")
    asked: dict[str, Any] = {
        "model": f"{provider}/{MODEL}",
        "api_base": url if provider == "anthropic" else f"{url}/v1",
        "api_key": "none",
        "temperature": 0,
        "max_tokens": 200,
    }
    question = [{"role": "user", "content": QUESTION}]
    assert litellm.completion(messages=question, **asked).choices[0].message.content == ANSWER
    pieces = litellm.completion(messages=question, stream=True, **asked)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == ANSWER
    weather = [{"role": "user", "content": WEATHER}]
    tools = [{"type": "function", "function": FUNCTION}]
    (call,) = litellm.completion(messages=weather, tools=tools, **asked).choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Oslo"})
    chunks = list(litellm.completion(messages=weather, tools=tools, stream=True, **asked))
    built = litellm.stream_chunk_builder(chunks).choices[0].message.tool_calls[0].function
    assert (built.name, json.loads(built.arguments)) == ("get_weather", {"city": "Oslo"})


@pytest.mark.parametrize("responses", [False, True])
def test_langchain(url: str, responses: bool) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    chat = langchain.ChatOpenAI(
        base_url=f"{url}/v1", api_key="none", model=MODEL, temperature=0, use_responses_api=responses
    )
    assert chat.invoke(QUESTION).text == ANSWER
    assert "".join(chunk.text for chunk in chat.stream(QUESTION)) == ANSWER
    with_tools = chat.bind_tools([{"type": "function", "function": FUNCTION}])
    first = with_tools.invoke(WEATHER)
    (call,) = first.tool_calls
    assert (call["name"], call["args"]) == ("get_weather", {"city": "Oslo"})
    told = with_tools.invoke(
        [("user", WEATHER), first, {"role": "tool", "tool_call_id": call["id"], "content": RESULT}]
    )
    assert told.text == TOLD
    total = None
    for chunk in with_tools.stream(WEATHER):
        total = chunk if total is None else total + chunk
    assert total.tool_calls[0]["args"] == {"city": "Oslo"}


class Person(pydantic.BaseModel):
    """Name and age."""

    name: str
    age: int


PERSON = "Extract name and age as JSON: Maria is 34 years old and lives in Oslo."
MARIA = Person(name="Maria", age=34)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(url: str, method: str) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    chat = langchain.ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=MODEL, temperature=0)
    found = chat.with_structured_output(Person, method=method).invoke(PERSON)
    assert found == MARIA if method == "json_schema" else isinstance(found, Person)


async def test_langchain_async(url: str) -> None:
    langchain = pytest.importorskip("langchain_openai", reason="langchain-openai is not installed")
    chat = langchain.ChatOpenAI(base_url=f"{url}/v1", api_key="none", model=MODEL, temperature=0, stream_usage=True)
    chunks = [chunk async for chunk in chat.astream(QUESTION)]
    assert "".join(chunk.text for chunk in chunks) == ANSWER
    assert sum((c.usage_metadata or {}).get("output_tokens", 0) for c in chunks) > 0


async def test_litellm_async(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm", reason="litellm is not installed")
    asked: dict[str, Any] = {"model": f"hosted_vllm/{MODEL}", "api_base": f"{url}/v1", "temperature": 0}
    question = [{"role": "user", "content": QUESTION}]
    stream = await litellm.acompletion(messages=question, stream=True, **asked)
    assert "".join([p.choices[0].delta.content or "" async for p in stream]) == ANSWER
    shaped = await litellm.acompletion(
        messages=[{"role": "user", "content": PERSON}], response_format=Person, max_tokens=100, **asked
    )
    assert Person.model_validate_json(shaped.choices[0].message.content) == MARIA


@pytest.mark.parametrize("mode", ["TOOLS", "JSON_SCHEMA", "JSON"])
def test_instructor(client: openai.OpenAI, mode: str) -> None:
    """A forced call, a schema, and a schema that is only told to the model; and the object as it grows."""
    instructor = pytest.importorskip("instructor", reason="instructor is not installed")
    patched = instructor.from_openai(client, mode=getattr(instructor.Mode, mode))
    asked: dict[str, Any] = {
        "model": MODEL, "messages": [{"role": "user", "content": PERSON}], "temperature": 0, "max_tokens": 200
    }  # fmt: skip
    found = patched.chat.completions.create(response_model=Person, max_retries=0, **asked)
    assert isinstance(found, Person)
    if mode == "JSON_SCHEMA":
        assert found.model_dump() == MARIA.model_dump()  # it is of a class that instructor made of it
    *_, last = patched.chat.completions.create_partial(response_model=Person, max_retries=0, **asked)
    assert last.model_dump() == found.model_dump()


def test_instructor_parallel_tools(client: openai.OpenAI) -> None:
    """Here the choice is left to the model."""
    instructor = pytest.importorskip("instructor", reason="instructor is not installed")

    class get_weather(pydantic.BaseModel):
        """Get the weather in a city."""

        city: str

    patched = instructor.from_openai(client, mode=instructor.Mode.PARALLEL_TOOLS)
    calls = patched.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": WEATHER}],
        response_model=Iterable[get_weather],
        temperature=0,
    )
    assert [call.city for call in calls] == ["Oslo"]
