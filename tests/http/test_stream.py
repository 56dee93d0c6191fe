"""Every stream, put together again, is the whole answer; and its form is exact."""

import itertools
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http import sse
from tests.http.fake_engine import Script
from tests.http.live import CLIENT, LiveServer

CHAT = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "fake", "prompt": "Hi", "max_tokens": 40}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"n": 3},
    {"stop": ["wör"]},
    {"stop": "wör", "include_stop_str_in_output": True},
    {"return_token_ids": True},
    {"max_tokens": 9},
]
LOGPROBS = {
    True: [{}, {"logprobs": True, "top_logprobs": 2}],
    False: [{}, {"logprobs": 2}, {"logprobs": 0, "echo": True}],
}
STREAM_OPTIONS: list[dict[str, Any] | None] = [
    None,
    {},
    {"include_usage": False},
    {"include_usage": True},
    {"include_usage": True, "continuous_usage_stats": True},
    {"include_usage": False, "continuous_usage_stats": True},
]


@pytest.mark.parametrize("per_step", [1, 3])
@pytest.mark.parametrize("chat", [True, False])
def test_stream_is_the_whole(server: LiveServer, chat: bool, per_step: int) -> None:
    server.engine.script.per_step = per_step
    path, base = ("/v1/chat/completions", CHAT) if chat else ("/v1/completions", COMPLETION)
    with httpx.Client(base_url=server.url, verify=False) as client:
        for option, logprobs in itertools.product(OPTIONS, LOGPROBS[chat]):
            body = {**base, **option, **logprobs}
            whole = client.post(path, json=body)
            assert whole.status_code == 200, whole.text
            stream = {"stream": True, "stream_options": {"include_usage": True}}
            streamed = client.post(path, json={**body, **stream})
            collected = sse.collect(sse.events(streamed), chat=chat, usage=True)
            assert collected == sse.plain(whole.json(), chat=chat), body


@pytest.mark.parametrize("options", STREAM_OPTIONS)
@pytest.mark.parametrize("chat", [True, False])
def test_stream_options(server: LiveServer, chat: bool, options: dict[str, Any] | None) -> None:
    path, base = ("/v1/chat/completions", CHAT) if chat else ("/v1/completions", COMPLETION)
    wanted = bool(options and options.get("include_usage"))
    continuous = wanted and bool(options and options.get("continuous_usage_stats"))
    chunks = sse.events(CLIENT.post(server.url + path, json={**base, "stream": True, "stream_options": options}))
    sse.collect(chunks, chat=chat, usage=wanted, continuous=continuous)
    if continuous:
        counts = [c["usage"]["completion_tokens"] for c in chunks]
        assert counts == sorted(counts) and counts[-1] == chunks[-1]["usage"]["completion_tokens"] > 0


def test_streams_of_several_prompts(server: LiveServer) -> None:
    body = {"model": "fake", "prompt": ["a", "bc"], "n": 2, "max_tokens": 7, "echo": True}
    whole = CLIENT.post(server.url + "/v1/completions", json=body).json()
    assert [c["text"] for c in whole["choices"]] == ["aHello, ", "aello, w", "bcHello, ", "bcello, w"]
    streamed = CLIENT.post(
        server.url + "/v1/completions", json={**body, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert sse.collect(sse.events(streamed), chat=False, usage=True) == sse.plain(whole, chat=False)


def test_prompt_logprobs(server: LiveServer) -> None:
    chat = CLIENT.post(server.url + "/v1/chat/completions", json={**CHAT, "prompt_logprobs": 1}).json()
    assert chat["prompt_logprobs"][0] is None
    assert len(chat["prompt_logprobs"]) == chat["usage"]["prompt_tokens"]
    completion = CLIENT.post(server.url + "/v1/completions", json={**COMPLETION, "prompt_logprobs": 1, "n": 2}).json()
    for choice in completion["choices"]:
        assert choice["prompt_logprobs"][1][str(ord("H"))] == {"logprob": -1.0, "rank": 2, "decoded_token": "H"}


def test_token_ids(server: LiveServer) -> None:
    chat = CLIENT.post(
        server.url + "/v1/chat/completions", json={**CHAT, "return_token_ids": True, "max_tokens": 2}
    ).json()
    assert bytes(chat["prompt_token_ids"]) == b"<user>Hi\n<assistant>"
    assert chat["choices"][0]["token_ids"] == list(b"He")
    completion = CLIENT.post(server.url + "/v1/completions", json={**COMPLETION, "return_token_ids": True}).json()
    assert completion["choices"][0]["prompt_token_ids"] == [256, *b"Hi"]


def test_bytes_of_half_a_letter(server: LiveServer) -> None:
    """Tokens that are parts of a letter have no text of their own, but their bytes add up to it."""
    server.engine.script.text = "ö"
    chat = CLIENT.post(server.url + "/v1/chat/completions", json={**CHAT, "logprobs": True}).json()
    content = chat["choices"][0]["logprobs"]["content"]
    assert bytes(b for t in content[:2] for b in t["bytes"]).decode() == "ö"


def test_failure_inside_a_stream(server: LiveServer) -> None:
    server.engine.script.fail_after = 2
    for path, base in (("/v1/chat/completions", CHAT), ("/v1/completions", COMPLETION)):
        chunks = sse.events(CLIENT.post(server.url + path, json={**base, "stream": True}))
        assert chunks[-1]["error"]["type"] == "internal_error"
        assert "a bug" not in str(chunks[-1]), "insides stay inside"
        assert all("error" not in c for c in chunks[:-1])
        whole = CLIENT.post(server.url + path, json=base)
        assert whole.status_code == 500 and whole.json()["error"]["type"] == "internal_error"


def test_four_choices_interleave(server: LiveServer) -> None:
    """Each of n choices has its own text, and they grow side by side."""
    text = server.engine.script.text = "0123456789abcdef"
    chunks = sse.events(CLIENT.post(server.url + "/v1/chat/completions", json={**CHAT, "n": 4, "stream": True}))
    whole = sse.collect(chunks, chat=True, usage=False)
    assert [c["text"] for c in whole["choices"]] == [text[i:] + text[:i] for i in range(4)]
    order = [c["choices"][0]["index"] for c in chunks]
    assert order[:4] == [0, 1, 2, 3] and len({tuple(order[i : i + 4]) for i in range(4, 40, 4)}) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.sampled_from("aab <tool_call>é🙂\u200d\n\ufffd\U0001f1f3\U0001f1f4"), max_size=40),
    stop=st.lists(st.text(st.sampled_from("ab é🙂\n"), min_size=1, max_size=3), max_size=3),
    per_step=st.integers(1, 7),
    n=st.integers(1, 4),
    keep=st.booleans(),
    chat=st.booleans(),
)
def test_any_letters_any_stop(
    server: LiveServer, text: str, stop: list[str], per_step: int, n: int, keep: bool, chat: bool
) -> None:
    server.engine.script = Script(text=text, per_step=per_step)
    path, base = ("/v1/chat/completions", CHAT) if chat else ("/v1/completions", {**COMPLETION, "max_tokens": 200})
    body = {**base, "n": n, "stop": stop, "include_stop_str_in_output": keep, "return_token_ids": True}
    whole = CLIENT.post(server.url + path, json=body).json()
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = sse.events(CLIENT.post(server.url + path, json={**body, **stream}))
    assert sse.collect(streamed, chat=chat, usage=True) == sse.plain(whole, chat=chat)


def test_tokens_as_ids(server: LiveServer) -> None:
    body = {**COMPLETION, "logprobs": 1, "return_tokens_as_token_ids": True, "max_tokens": 1}
    logprobs = CLIENT.post(server.url + "/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == [f"token_id:{ord('H')}"] and set(logprobs["top_logprobs"][0]) >= {"token_id:72"}
    chat = {**CHAT, "logprobs": True, "return_tokens_as_token_ids": True, "max_tokens": 1}
    content = CLIENT.post(server.url + "/v1/chat/completions", json=chat).json()["choices"][0]["logprobs"]["content"]
    assert (content[0]["token"], content[0]["bytes"]) == ("token_id:72", [72])


def test_chat_echo(server: LiveServer) -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": "Well, "}]
    body = {**CHAT, "messages": messages, "echo": True, "continue_final_message": True}
    whole = CLIENT.post(server.url + "/v1/chat/completions", json=body).json()
    assert whole["choices"][0]["message"]["content"] == "Well, " + server.engine.script.text
    chunks = sse.events(CLIENT.post(server.url + "/v1/chat/completions", json={**body, "stream": True}))
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Well, " + server.engine.script.text


def test_request_id_in_the_body(server: LiveServer) -> None:
    url = server.url + "/v1/chat/completions"
    answer = CLIENT.post(url, json={**CHAT, "request_id": "mine"})
    assert answer.headers["x-request-id"] == "mine" and answer.json()["id"] == "chatcmpl-mine"
    header = CLIENT.post(url, json={**CHAT, "request_id": "mine"}, headers={"X-Request-Id": "header"})
    assert header.headers["x-request-id"] == "header" and header.json()["id"] == "chatcmpl-header"


def test_request_id_in_and_out(server: LiveServer) -> None:
    url = server.url + "/v1/chat/completions"
    answer = CLIENT.post(url, json=CHAT, headers={"X-Request-Id": "my-id-1"})
    assert answer.headers["x-request-id"] == "my-id-1" and answer.json()["id"] == "chatcmpl-my-id-1"
    again = CLIENT.post(url, json=CHAT, headers={"X-Request-Id": "my-id-1"})
    assert again.status_code == 200
    assert len({s.request_id for s in server.engine.seen}) == 2, "a repeated id is no clash in the engine"
    odd = CLIENT.post(url, json=CHAT, headers={"X-Request-Id": "x" * 500})
    assert odd.status_code == 200 and len(odd.headers["x-request-id"]) == 32
