"""Anthropic's Messages API as its official client reads it: events, blocks, tools, thoughts, errors."""

from collections.abc import Iterator
from typing import Any

import pytest

from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import QueueFullError
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import CLIENT, LiveServer, serving

anthropic = pytest.importorskip("anthropic", reason="the anthropic client is not installed")

TEXT = Script().text
TOOLS: list[Any] = [
    {
        "name": "get_weather",
        "description": "Weather of a city",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s"}}\n</tool_call>'
MIXED = "<think>\nHm, é?\n</think>\n\nOne moment.\n" + CALL % "Oslo" + "\n" + CALL % "Líma 🙂"
ASK: dict[str, Any] = {"model": "fake", "max_tokens": 500, "messages": [{"role": "user", "content": "Hi"}]}


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
def client(live: LiveServer) -> Any:
    return anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0)


def said(message: Any) -> list[Any]:
    out: list[Any] = []
    for block in message.content:
        if block.type == "tool_use":
            assert block.id
            out.append((block.name, block.input))
        else:
            out.append((block.type, block.thinking if block.type == "thinking" else block.text))
    return out


def check(events: list[Any]) -> None:
    """The order that clients rely on."""
    assert events[0].type == "message_start" and events[0].message.content == []
    assert events[0].message.stop_reason is None and events[-1].type == "message_stop"
    assert events[-2].type == "message_delta" and events[-2].delta.stop_reason
    index, is_open = -1, False
    for event in events[1:-2]:
        if event.type == "content_block_start":
            assert not is_open and event.index == index + 1
            index, is_open = event.index, True
        elif event.type == "content_block_stop":
            assert is_open and event.index == index
            is_open = False
        else:
            assert event.type == "content_block_delta" and is_open and event.index == index
    assert not is_open


def prompt(live: LiveServer) -> str:
    return bytes(live.engine.seen[-1].prompt_token_ids).decode()


def test_create(client: Any, live: LiveServer) -> None:
    live.engine.script.num_cached_tokens = 4
    message = client.messages.create(**ASK, system="Be kind.")
    assert message.type == "message" and message.role == "assistant" and message.id.startswith("msg_")
    assert said(message) == [("text", TEXT)]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    assert prompt(live) == "<system>Be kind.\n<user>Hi\n<assistant>"
    assert message.usage.input_tokens + message.usage.cache_read_input_tokens == len(prompt(live))
    assert message.usage.cache_read_input_tokens == 4
    assert message.usage.output_tokens == len(TEXT.encode()) + 1
    assert message._request_id


@pytest.mark.parametrize("per_step", [1, 3, 1000])
@pytest.mark.parametrize("text", [TEXT, MIXED, MIXED + "\nDone.", "", " ", CALL % "x", "<think>only"])
def test_stream_is_the_whole(client: Any, live: LiveServer, text: str, per_step: int) -> None:
    live.engine.script = Script(text=text, per_step=per_step)
    whole = client.messages.create(**ASK, tools=TOOLS)
    events = list(client.messages.create(**ASK, tools=TOOLS, stream=True))
    check(events)
    with client.messages.stream(**ASK, tools=TOOLS) as stream:
        final = stream.get_final_message()
    assert said(final) == said(whole)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)


def test_blocks(client: Any, live: LiveServer) -> None:
    live.engine.script = Script(text=MIXED, per_step=5)
    message = client.messages.create(**ASK, tools=TOOLS)
    assert said(message) == [
        ("thinking", "Hm, é?"),
        ("text", "One moment."),
        ("get_weather", {"city": "Oslo"}),
        ("get_weather", {"city": "Líma 🙂"}),
    ]
    assert message.stop_reason == "tool_use"
    only_one = client.messages.create(
        **ASK, tools=TOOLS, tool_choice={"type": "auto", "disable_parallel_tool_use": True}
    )
    assert len(said(only_one)) == 3


@pytest.mark.asyncio
async def test_async_text_stream(live: LiveServer) -> None:
    async with anthropic.AsyncAnthropic(base_url=live.url, api_key="none") as client:
        async with client.messages.stream(**ASK) as stream:
            assert "".join([text async for text in stream.text_stream]) == TEXT


def test_why_it_stopped(client: Any) -> None:
    short = client.messages.create(**{**ASK, "max_tokens": 5})
    assert (said(short), short.stop_reason) == ([("text", "Hello")], "max_tokens")
    stopped = client.messages.create(**ASK, stop_sequences=["wör"])
    assert (stopped.stop_reason, stopped.stop_sequence, said(stopped)) == (
        "stop_sequence",
        "wör",
        [("text", "Hello, ")],
    )
    events = list(client.messages.create(**ASK, stop_sequences=["wör"], stream=True))
    assert (events[-2].delta.stop_reason, events[-2].delta.stop_sequence) == ("stop_sequence", "wör")


def test_more_tokens_than_the_context(client: Any, live: LiveServer) -> None:
    live.engine.script = Script(text="x" * 5000, per_step=1000)
    message = client.messages.create(**{**ASK, "max_tokens": 100_000}, timeout=60)
    assert message.stop_reason == "model_context_window_exceeded"
    assert message.usage.input_tokens + message.usage.output_tokens == 2048


def test_history(client: Any, live: LiveServer) -> None:
    client.messages.create(
        model="fake",
        max_tokens=10,
        system=[{"type": "text", "text": "S1", "cache_control": {"type": "ephemeral"}}, {"type": "text", "text": "S2"}],
        tools=TOOLS,
        messages=[
            {"role": "user", "content": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": ""},
                    {"type": "redacted_thinking", "data": "xyz"},
                    {"type": "text", "text": "Look"},
                    {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"city": "Oslo"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "tool_result", "tool_use_id": "t2", "is_error": True},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
    )
    assert prompt(live) == (
        "[tools:get_weather]<system>S1\nS2\n<user>A\nB\n<assistant>Look\n<tool>rain\n<tool>error\n<user>And?\n"
        "<assistant>"
    )


def test_words_put_into_its_mouth(client: Any, live: LiveServer) -> None:
    client.messages.create(
        model="fake", max_tokens=5, messages=[*ASK["messages"], {"role": "assistant", "content": "The answer is ("}]
    )
    assert prompt(live) == "<user>Hi\n<assistant>The answer is ("


def test_thinking_switch(client: Any, live: LiveServer) -> None:
    client.messages.create(**ASK, thinking={"type": "disabled"})
    assert prompt(live).startswith("[enable_thinking=False][thinking=False]")
    client.messages.create(**ASK, thinking={"type": "enabled", "budget_tokens": 1024})
    assert prompt(live).startswith("[enable_thinking=True][thinking=True]")


def test_count_tokens(client: Any) -> None:
    counted = client.messages.count_tokens(model="fake", messages=ASK["messages"], system="S")
    assert counted.input_tokens == len("<system>S\n<user>Hi\n<assistant>")


def test_a_broken_call_is_shown_as_it_was(client: Any, live: LiveServer) -> None:
    live.engine.script = Script(text=CALL % "Oslo")
    message = client.messages.create(**{**ASK, "max_tokens": 60}, tools=TOOLS)
    assert said(message) == [("get_weather", {"raw_arguments": '{"city": "O'})] and message.stop_reason == "max_tokens"


def test_errors_have_its_shape(client: Any, live: LiveServer) -> None:
    live.engine.script = Script(error=QueueFullError("full"))
    with pytest.raises(anthropic.RateLimitError):
        client.messages.create(**ASK)
    live.engine.script = Script(fail_after=3)
    with pytest.raises(anthropic.APIStatusError, match="api_error"):
        list(client.messages.create(**ASK, stream=True))
    with pytest.raises(anthropic.InternalServerError):
        client.messages.create(**ASK)
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(**{**ASK, "model": "nope"})
    wrong = CLIENT.post(live.url + "/v1/messages", json={"messages": []})
    assert wrong.status_code == 400
    body = wrong.json()
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert body["request_id"] == wrong.headers["request-id"] == wrong.headers["x-request-id"]
    assert CLIENT.get(live.url + "/v1/messages").json()["type"] == "error"
    assert CLIENT.post(live.url + "/v1/messages/nothing").json()["error"]["type"] == "not_found_error"


def test_keys() -> None:
    with serving(FakeEngine(), ServerSettings(api_keys=("secret",))) as live:
        right = anthropic.Anthropic(base_url=live.url, api_key="secret", max_retries=0)
        assert right.messages.create(**{**ASK, "max_tokens": 5}).stop_reason == "max_tokens"
        bearer = anthropic.Anthropic(base_url=live.url, auth_token="secret", api_key=None, max_retries=0)
        assert bearer.messages.create(**{**ASK, "max_tokens": 5}).stop_reason == "max_tokens"
        with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
            anthropic.Anthropic(base_url=live.url, api_key="wrong", max_retries=0).messages.create(**ASK)
