"""Every stream, put together again, is the whole answer; and its form is exact."""

import itertools
from typing import Any

import httpx
import pytest

from tests.http import sse
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


def test_request_id_in_and_out(server: LiveServer) -> None:
    url = server.url + "/v1/chat/completions"
    answer = CLIENT.post(url, json=CHAT, headers={"X-Request-Id": "my-id-1"})
    assert answer.headers["x-request-id"] == "my-id-1" and answer.json()["id"] == "chatcmpl-my-id-1"
    again = CLIENT.post(url, json=CHAT, headers={"X-Request-Id": "my-id-1"})
    assert again.status_code == 200
    assert len({s.request_id for s in server.engine.seen}) == 2, "a repeated id is no clash in the engine"
    odd = CLIENT.post(url, json=CHAT, headers={"X-Request-Id": "x" * 500})
    assert odd.status_code == 200 and len(odd.headers["x-request-id"]) == 32
