"""The Responses API as the official client reads it: typed events, items, tools, thoughts; the stream is the whole."""

import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import QueueFullError
from tests.http import response_events
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import CLIENT, LiveServer, serving

TEXT = Script().text
TOOLS: list[Any] = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        "strict": False,
    }
]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s"}}\n</tool_call>'
MIXED = "<think>\nHm, é?\n</think>\n\nOne moment.\n" + CALL % "Oslo" + "\n" + CALL % "Líma 🙂" + "\nDone."


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    settings = ServerSettings(tool_call_parser="hermes", reasoning_parser="qwen3")
    with serving(FakeEngine(max_model_len=2048), settings) as live:
        yield live


@pytest.fixture(autouse=True)
def _fresh(live: LiveServer) -> None:
    live.engine.script = Script()
    live.engine.seen.clear()


@pytest.fixture
def client(live: LiveServer) -> OpenAI:
    return OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)


def said(response: Any) -> list[Any]:
    """The output without what differs from run to run."""
    out = []
    for item in response.output:
        assert item.id and item.status in ("completed", "incomplete")
        if item.type == "function_call":
            assert item.call_id
            out.append((item.name, item.arguments, item.status))
        else:
            out.append((item.type, "".join(part.text for part in item.content), item.status))
    return out


def test_create(client: OpenAI, live: LiveServer) -> None:
    live.engine.script.num_cached_tokens = 4
    response = client.responses.create(model="fake", input="Hi", instructions="Be kind.", temperature=0.5)
    assert response.object == "response" and response.status == "completed" and response.id.startswith("resp_")
    assert response.output_text == TEXT
    assert said(response) == [("message", TEXT, "completed")]
    assert response.instructions == "Be kind." and response.temperature == 0.5
    assert response.usage.input_tokens == len("<system>Be kind.\n<user>Hi\n<assistant>")
    assert response.usage.input_tokens_details.cached_tokens == 4
    assert response.usage.output_tokens == len(TEXT.encode()) + 1
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.error is None and response.incomplete_details is None


@pytest.mark.parametrize("per_step", [1, 3, 1000])
@pytest.mark.parametrize("text", [TEXT, MIXED, "", " ", CALL % "x", "<think>only"])
def test_stream_is_the_whole(client: OpenAI, live: LiveServer, text: str, per_step: int) -> None:
    live.engine.script = Script(text=text, per_step=per_step)
    asked: dict[str, Any] = {"model": "fake", "input": "Weather?", "tools": TOOLS}
    whole = client.responses.create(**asked)
    streamed = response_events.check(client.responses.create(**asked, stream=True))
    assert said(streamed) == said(whole)
    assert streamed.usage == whole.usage and streamed.status == whole.status
    live.engine.script = Script(text=text, per_step=per_step)
    with client.responses.stream(**asked) as helper:
        for _ in helper:
            pass
        assert said(helper.get_final_response()) == said(whole)


def test_parts_keep_their_order(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text=MIXED, per_step=7)
    response = client.responses.create(model="fake", input="Weather?", tools=TOOLS)
    assert said(response) == [
        ("reasoning", "Hm, é?", "completed"),
        ("message", "One moment.", "completed"),
        ("get_weather", '{"city": "Oslo"}', "completed"),
        ("get_weather", '{"city": "Líma 🙂"}', "completed"),
        ("message", "Done.", "completed"),
    ]
    assert response.usage.output_tokens_details.reasoning_tokens == len("Hm, é?".encode())


def test_incomplete(client: OpenAI, live: LiveServer) -> None:
    asked: dict[str, Any] = {"model": "fake", "input": "Hi", "max_output_tokens": 5}
    whole = client.responses.create(**asked)
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert said(whole) == [("message", "Hello", "incomplete")]
    events = list(client.responses.create(**asked, stream=True))
    assert events[-1].type == "response.incomplete" and said(events[-1].response) == said(whole)


@pytest.mark.asyncio
async def test_async_stream(live: LiveServer) -> None:
    async with AsyncOpenAI(base_url=live.url + "/v1", api_key="none") as client:
        stream = await client.responses.create(model="fake", input="Hi", stream=True)
        deltas = [event.delta async for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == TEXT and len(deltas) > 10


def test_items_become_messages(client: OpenAI, live: LiveServer) -> None:
    client.responses.create(
        model="fake",
        instructions="Short.",
        tools=TOOLS,
        input=[
            {"role": "developer", "content": "Kind."},
            {"role": "user", "content": [{"type": "input_text", "text": "A"}, {"type": "input_text", "text": "B"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "think"}]},
            {
                "type": "message",
                "role": "assistant",
                "id": "msg_1",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Look", "annotations": []}],
            },
            {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Oslo"}'},
            {"type": "function_call", "call_id": "c2", "name": "get_weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "sun"}]},
        ],
    )
    prompt = bytes(live.engine.seen[-1].prompt_token_ids).decode()
    assert prompt == (
        "[tools:get_weather]<system>Short.\n\nKind.\n<user>A\nB\n<assistant>Look\n<tool>rain\n<tool>sun\n<assistant>"
    )


def test_a_conversation(client: OpenAI, live: LiveServer) -> None:
    first = client.responses.create(model="fake", input="One", instructions="System.")
    live.engine.script = Script(text="Two!")
    second = client.responses.create(model="fake", input="Two", previous_response_id=first.id)
    third = client.responses.create(model="fake", input="Three", previous_response_id=second.id)
    prompt = bytes(live.engine.seen[-1].prompt_token_ids).decode()
    assert prompt == f"<user>One\n<assistant>{TEXT}\n<user>Two\n<assistant>Two!\n<user>Three\n<assistant>"
    assert third.previous_response_id == second.id
    again = client.responses.retrieve(first.id)
    assert again == first
    items = client.responses.input_items.list(third.id).data
    assert [item.content[0].text for item in items] == ["Three"]  # type: ignore[union-attr]
    client.responses.delete(first.id)
    for gone in (first.id, "resp_nothing"):
        with pytest.raises(openai.NotFoundError, match="no response"):
            client.responses.retrieve(gone)
        with pytest.raises(openai.NotFoundError, match="no response"):
            client.responses.create(model="fake", input="x", previous_response_id=gone)


def test_store_false(client: OpenAI) -> None:
    response = client.responses.create(model="fake", input="Hi", store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    with pytest.raises(openai.BadRequestError, match="store"):
        client.responses.create(model="fake", input="Hi", store=False, background=True)


def test_a_streamed_response_is_stored(client: OpenAI) -> None:
    *_, last = client.responses.create(model="fake", input="Hi", stream=True)
    assert client.responses.retrieve(last.response.id) == last.response


def wait(client: OpenAI, response_id: str) -> Any:
    for _ in range(500):
        response = client.responses.retrieve(response_id)
        if response.status not in ("queued", "in_progress"):
            return response
        time.sleep(0.01)
    raise AssertionError("it never ended")


def test_background(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="x" * 60, delay_s=0.01)
    started = client.responses.create(model="fake", input="Hi", background=True)
    assert started.status == "queued" and started.background and started.output == []
    half = client.responses.retrieve(started.id)
    assert half.status in ("queued", "in_progress") and half.usage is None
    with pytest.raises(openai.BadRequestError, match="not complete"):
        client.responses.create(model="fake", input="x", previous_response_id=started.id)
    assert wait(client, started.id).output_text == "x" * 60


def test_background_stream_left_and_resumed(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text=TEXT, delay_s=0.01)
    seen = []
    with client.responses.create(model="fake", input="Hi", background=True, stream=True) as stream:
        for event in stream:
            seen.append(event)
            if len(seen) == 9:
                break
    assert [e.type for e in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    response_id = seen[0].response.id
    rest = client.responses.retrieve(response_id, stream=True, starting_after=seen[-1].sequence_number)
    events = [*seen, *rest]
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == TEXT
    assert events[-1].type == "response.completed"
    assert client.responses.retrieve(response_id) == events[-1].response
    assert [e.sequence_number for e in client.responses.retrieve(response_id, stream=True)] == list(range(len(events)))


def test_cancel(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="x" * 1000, delay_s=0.01)
    started = client.responses.create(model="fake", input="Hi", background=True)
    while not live.engine.seen or live.engine.seen[-1].tokens < 3:
        pass
    cancelled = client.responses.cancel(started.id)
    assert cancelled.status == "cancelled" and cancelled.output_text.startswith("x")
    while live.engine.running:
        pass
    assert live.engine.seen[-1].closed_early
    assert client.responses.retrieve(started.id) == cancelled == client.responses.cancel(started.id)
    live.engine.script = Script()
    done = client.responses.create(model="fake", input="Hi")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(done.id)


def test_deleting_a_running_one_ends_it(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="x" * 1000, delay_s=0.01)
    started = client.responses.create(model="fake", input="Hi", background=True)
    client.responses.delete(started.id)
    while live.engine.running:
        pass
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(started.id)


def test_failures(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(fail_after=3)
    events = list(client.responses.create(model="fake", input="Hi", stream=True))
    failed = events[-1]
    assert failed.type == "response.failed" and failed.response.status == "failed"
    assert failed.response.error.code == "server_error" and "a bug" not in failed.response.error.message
    assert failed.response.output_text == "Hel"
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="fake", input="Hi")
    live.engine.script = Script(error=QueueFullError("full"))
    for stream in (True, False):
        with pytest.raises(openai.RateLimitError):
            client.responses.create(model="fake", input="Hi", stream=stream)
    started = client.responses.create(model="fake", input="Hi", background=True)
    assert wait(client, started.id).error.code == "rate_limit_exceeded"


def test_logprobs(live: LiveServer) -> None:
    with serving(FakeEngine()) as plain:
        client = OpenAI(base_url=plain.url + "/v1", api_key="none", max_retries=0)
        asked: dict[str, Any] = {
            "model": "fake", "input": "Hi", "top_logprobs": 2, "include": ["message.output_text.logprobs"]
        }  # fmt: skip
        whole = client.responses.create(**asked)
        logprobs = whole.output[0].content[0].logprobs
        assert [t.token for t in logprobs[:5]] == list("Hello") and len(logprobs[0].top_logprobs) == 2
        assert len(logprobs) == whole.usage.output_tokens
        streamed = response_events.check(client.responses.create(**asked, stream=True))
        assert streamed.output[0].content[0].logprobs == logprobs


def test_input_tokens(client: OpenAI) -> None:
    counted = client.responses.input_tokens.count(model="fake", input="Hi", instructions="S")
    assert counted.input_tokens == len("<system>S\n<user>Hi\n<assistant>")


def test_effort_and_formats(client: OpenAI, live: LiveServer) -> None:
    client.responses.create(model="fake", input="Hi", reasoning={"effort": "low"}, text={"format": {"type": "text"}})
    prompt = bytes(live.engine.seen[-1].prompt_token_ids).decode()
    assert prompt.startswith("[reasoning_effort=low]")


def test_only_allowed_tools(client: OpenAI, live: LiveServer) -> None:
    other = {**TOOLS[0], "name": "other"}
    choice: Any = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "other"}]}
    client.responses.create(model="fake", input="Hi", tools=[*TOOLS, other], tool_choice=choice)
    assert bytes(live.engine.seen[-1].prompt_token_ids).decode().startswith("[tools:other]")


def test_the_store_is_bounded() -> None:
    with serving(FakeEngine(), ServerSettings(responses_store_bytes=6000, responses_ttl_s=3600)) as live:
        client = OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)
        ids = [client.responses.create(model="fake", input="Hi").id for _ in range(8)]
        found = [i for i in ids if CLIENT.get(f"{live.url}/v1/responses/{i}").status_code == 200]
        assert 0 < len(found) < 8 and found == ids[-len(found) :]
    with serving(FakeEngine(), ServerSettings(responses_store_bytes=0)) as live:
        client = OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)
        assert client.responses.create(model="fake", input="Hi").store is False
