"""Tool calls and reasoning over HTTP: the stream and the whole answer say the same, as the official client reads it."""

from collections.abc import Iterator

import pytest
from openai import BadRequestError, OpenAI

from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.parsers import tool_family
from kvasir.structured.formats import encode, format_of
from kvasir.structured.tools import CalledTool, forced_calls
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import LiveServer, serving

ASK = [{"role": "user", "content": "Weather?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
WEATHER = CalledTool("get_weather", TOOLS[0]["function"]["parameters"])  # type: ignore[index]
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "%s"}}\n</tool_call>'
TEXT = "One moment, é.\n" + CALL % "Oslo" + "\n" + CALL % "Líma 🙂"
ARGUMENTS = ['{"city": "Oslo"}', '{"city": "Líma 🙂"}']


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    settings = ServerSettings(tool_call_parser="hermes", reasoning_parser="qwen3")
    with serving(FakeEngine(max_model_len=1024), settings) as live:
        yield live


@pytest.fixture
def client(live: LiveServer) -> OpenAI:
    return OpenAI(base_url=live.url + "/v1", api_key="none", max_retries=0)


def streamed(client: OpenAI, **kwargs: object) -> dict[str, object]:
    """What a client makes of the stream, and whether the fragments came in the order that it relies on."""
    kwargs = {"model": "fake", "messages": ASK, "tools": TOOLS, **kwargs}
    chunks = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **kwargs)  # type: ignore
    content = reasoning = ""
    calls: list[dict[str, str]] = []
    finish = usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert finish is None
            delta = choice.delta
            content += delta.content or ""
            extra = delta.model_extra or {}
            assert extra.get("reasoning") == extra.get("reasoning_content")
            reasoning += extra.get("reasoning") or ""
            for call in delta.tool_calls or []:
                if call.index == len(calls):
                    assert call.id and call.type == "function" and call.function.name
                    calls.append({"id": call.id, "name": call.function.name, "arguments": ""})
                else:
                    assert call.index == len(calls) - 1 and call.id is None and call.function.name is None
                calls[-1]["arguments"] += call.function.arguments
            finish = choice.finish_reason
    assert len({c.pop("id") for c in calls}) == len(calls)
    return {"content": content or None, "reasoning": reasoning, "calls": calls, "finish": finish, "usage": usage}


def whole(client: OpenAI, **kwargs: object) -> dict[str, object]:
    kwargs = {"model": "fake", "messages": ASK, "tools": TOOLS, **kwargs}
    answer = client.chat.completions.create(**kwargs)  # type: ignore[call-overload]
    message = answer.choices[0].message
    extra = message.model_extra or {}
    assert extra.get("reasoning") == extra.get("reasoning_content")
    calls = [{"name": c.function.name, "arguments": c.function.arguments} for c in message.tool_calls or []]
    return {
        "content": message.content,
        "reasoning": extra.get("reasoning") or "",
        "calls": calls,
        "finish": answer.choices[0].finish_reason,
        "usage": answer.usage,
    }


@pytest.mark.parametrize("per_step", [1, 2, 7, 1000])
def test_stream_and_whole_agree(client: OpenAI, live: LiveServer, per_step: int) -> None:
    live.engine.script = Script(text=TEXT, per_step=per_step)
    got = whole(client)
    assert got == streamed(client)
    assert got["calls"] == [{"name": "get_weather", "arguments": a} for a in ARGUMENTS]
    assert (got["content"], got["finish"]) == ("One moment, é.", "tool_calls")
    assert got["usage"].completion_tokens == len(TEXT.encode()) + 1  # type: ignore[attr-defined]


def test_arguments_come_in_pieces(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text=CALL % "Oslo")
    chunks = client.chat.completions.create(model="fake", messages=ASK, tools=TOOLS, stream=True)  # type: ignore
    pieces = [c.choices[0].delta.tool_calls[0].function.arguments for c in chunks if c.choices[0].delta.tool_calls]
    assert "".join(pieces) == ARGUMENTS[0] and len(pieces) > 10


def test_a_call_alone_has_no_content(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text=CALL % "Oslo")
    assert whole(client)["content"] is None
    assert streamed(client)["content"] is None


def test_only_the_first_call(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text=TEXT, per_step=3)
    got = whole(client, parallel_tool_calls=False)
    assert got == streamed(client, parallel_tool_calls=False)
    assert [c["arguments"] for c in got["calls"]] == ARGUMENTS[:1]  # type: ignore[attr-defined]
    assert got["finish"] == "tool_calls"


@pytest.mark.parametrize("kwargs", [{"tool_choice": "none"}, {"tools": []}])
def test_text_stays_text(client: OpenAI, live: LiveServer, kwargs: dict[str, object]) -> None:
    live.engine.script = Script(text=TEXT, per_step=3)
    got = whole(client, **kwargs)
    assert got == streamed(client, **kwargs)
    assert (got["content"], got["calls"], got["finish"]) == (TEXT, [], "stop")


def test_a_broken_call_is_content(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="<tool_call>\nnot json</tool_call>", per_step=3)
    got = whole(client)
    assert got == streamed(client)
    assert (got["content"], got["calls"], got["finish"]) == (live.engine.script.text, [], "stop")


def test_cut_off_by_max_tokens(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text=CALL % "Oslo", per_step=3)
    got = whole(client, max_tokens=60)
    assert got == streamed(client, max_tokens=60)
    assert got["finish"] == "length" and got["calls"][0]["arguments"] == '{"city": "O'  # type: ignore[index]


def test_reasoning_and_calls(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="<think>\nHm, <tool_call>?\n</think>\n\n" + TEXT, per_step=5)
    got = whole(client)
    assert got == streamed(client)
    assert (got["reasoning"], got["content"]) == ("Hm, <tool_call>?", "One moment, é.")
    assert len(got["calls"]) == 2  # type: ignore[arg-type]


def test_each_choice_has_its_own_parser(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text=CALL % "Oslo", per_step=3)
    answer = client.chat.completions.create(model="fake", messages=ASK, tools=TOOLS, n=2)  # type: ignore[arg-type]
    first, second = answer.choices
    assert first.finish_reason == "tool_calls" and first.message.tool_calls
    rotated = live.engine.script.text
    assert second.message.tool_calls is None and second.message.content == rotated[1:] + rotated[:1]


NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_forced_calls_become_a_grammar(client: OpenAI, live: LiveServer, choice: object) -> None:
    live.engine.script = Script(text="<think>now</think>\n" + CALL % "Oslo")
    got = whole(client, tool_choice=choice)
    assert got == streamed(client, tool_choice=choice)
    assert (got["reasoning"], got["content"], got["finish"]) == ("now", None, "tool_calls")
    asked = live.engine.seen[-1].params.structured_outputs
    assert asked is not None
    thought, calls = format_of(asked).elements  # type: ignore[union-attr]
    assert "<think>" in encode(thought)
    assert calls == forced_calls(tool_family("hermes").styles, [WEATHER], several=choice == "required")


def test_forced_calls_that_cannot_be(live: LiveServer, client: OpenAI) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({"tool_choice": {"type": "function", "function": {"name": "nobody"}}}, "none of the tools"),
        ({"tool_choice": "required", "tools": []}, "no tools"),
        ({"tool_choice": "required", "response_format": {"type": "json_object"}}, "keep one"),
    ]
    for kwargs, text in wrong:
        with pytest.raises(BadRequestError, match=text):
            whole(client, **kwargs)
    for parser, text in (("none", "no tool-call parser"), ("pythonic", "no form that can be enforced")):
        with serving(FakeEngine(max_model_len=1024), ServerSettings(tool_call_parser=parser)) as other:
            asks = OpenAI(base_url=other.url + "/v1", api_key="none", max_retries=0)
            with pytest.raises(BadRequestError, match=text):
                whole(asks, tool_choice="required")
            if parser == "pythonic":
                with pytest.raises(BadRequestError, match="does not go together with tools"):
                    whole(asks, response_format={"type": "json_object"})


def test_history_goes_through_the_template(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="It rains.")
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS[0]}}
    messages = [
        *ASK,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    assert whole(client, messages=messages)["content"] == "It rains."


def test_harmony(live: LiveServer) -> None:
    """gpt-oss's format is read in every chat, with tools or without; its marks are special tokens and are kept."""
    text = (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>One moment.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}'
    )
    with serving(FakeEngine(Script(text=text, per_step=4), 1024), ServerSettings(tool_call_parser="openai")) as other:
        client = OpenAI(base_url=other.url + "/v1", api_key="none", max_retries=0)
        got = whole(client)
        assert got == streamed(client)
        assert (got["reasoning"], got["content"], got["finish"]) == ("Hm.", "One moment.", "tool_calls")
        assert got["calls"] == [{"name": "get_weather", "arguments": ARGUMENTS[0]}]
        assert other.engine.seen[-1].params.skip_special_tokens is False
        plain = whole(client, tools=[])
        assert (plain["reasoning"], plain["calls"]) == ("Hm.", [])
        assert "<|" not in str(plain["content"])


def test_include_reasoning(client: OpenAI, live: LiveServer) -> None:
    live.engine.script = Script(text="<think>Hm.</think>Hello", per_step=2)
    got = whole(client, extra_body={"include_reasoning": False})
    assert got == streamed(client, extra_body={"include_reasoning": False})
    assert (got["reasoning"], got["content"]) == ("", "Hello")


def test_effort_reaches_the_template(client: OpenAI, live: LiveServer) -> None:
    whole(client, reasoning_effort="high")
    assert bytes(live.engine.seen[-1].prompt_token_ids).startswith(b"[tools:get_weather][reasoning_effort=high]")
    whole(client, reasoning_effort="none", extra_body={"chat_template_kwargs": {"thinking": True}})
    prompt = bytes(live.engine.seen[-1].prompt_token_ids).decode()
    assert "[enable_thinking=False][reasoning_effort=none][thinking=True]" in prompt
