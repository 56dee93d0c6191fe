"""Whatever arrives, the answer is a 4xx in OpenAI's shape, and the engine hears nothing of it."""

from typing import Any

import httpx
import pytest

from kvasir.entrypoints.http.pooling import POOLING_PATHS
from kvasir.entrypoints.http.settings import ServerSettings
from tests.http.fake_engine import FakeEngine
from tests.http.live import CLIENT, LiveServer, serving

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ASK = [{"role": "user", "content": "Hi"}]


def check(response: httpx.Response, status: int = 400, param: str | None = None) -> str:
    assert response.status_code == status, (response.status_code, response.text)
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"]
    if param is not None:
        assert error["param"] == param, error
    assert response.headers["x-request-id"]
    return error["message"]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


BOTH: list[tuple[dict[str, Any], str]] = [
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": [1]}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.5}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"n": 0}, "n"),
    ({"n": 1_000_000}, "n"),
    ({"n": "2"}, "n"),
    ({"n": 1.5}, "n"),
    ({"seed": "x"}, "seed"),
    ({"seed": 2**70}, "seed"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": True}, "max_tokens"),
    ({"stop": [""]}, "stop"),
    ({"stop": ["a"] * 1000}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop": {"a": 1}}, "stop"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"5": 1000}}, "logit_bias[5]"),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"bad_words": [""]}, "bad_words"),
    ({"min_tokens": 10, "max_tokens": 5}, "min_tokens"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage"),
    ({"priority": 2**40}, "priority"),
    ({"cache_salt": ""}, "cache_salt"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"response_format": {"type": "xml"}}, "response_format"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
        "response_format.json_schema.schema",
    ),
    ({"response_format": {"type": "structural_tag", "format": {"type": "?"}}}, "structural_tag"),
    ({"guided_json": 5}, "guided_json"),
    ({"guided_json": "{"}, "guided_json"),
    ({"guided_json": nested(80)}, "guided_json"),
    ({"guided_json": {"a": nested(80)}}, "guided_json"),
    ({"guided_choice": [1]}, "guided_choice[0]"),
    ({"guided_regex": "a", "guided_grammar": "start: x"}, "guided_grammar"),
    ({"structured_outputs": {"regex": "a", "json_object": True}}, "structured_outputs"),
    ({"structured_outputs": {"pattern": "a"}}, "structured_outputs"),
    ({"structured_outputs": "json"}, "structured_outputs"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"best_of": 3}, "best_of"),
    ({"model": 5}, "model"),
    ({"max_tokens": 2**40}, "max_tokens"),
]
CHAT_ONLY: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "Hi"}, "messages"),
    ({"messages": [{"role": "alien", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"logprobs": 3}, "logprobs"),
    ({"tools": [{"type": "function"}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": nested(60)}}}]}, "tools"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "any", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tool_choice"),
    ({"tool_choice": {"type": "custom"}, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tool_choice"),
    ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}, "tool_choice"),
    ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"chat_template": "{{ 1 }}"}, "chat_template"),
    ({"chat_template_kwargs": {"a": nested(60)}}, "chat_template_kwargs"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
    ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"max_completion_tokens": 250}, "max_completion_tokens"),
    ({"echo": True}, "echo"),
    ({"thinking_token_budget": 5}, "thinking_token_budget"),
    ({"reasoning_effort": ""}, "reasoning_effort"),
    ({"reasoning_effort": 5}, "reasoning_effort"),
    ({"request_id": "a b"}, "request_id"),
    ({"request_id": "x" * 200}, "request_id"),
    ({"messages": [{"role": "user", "content": "x" * 500}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x" * 100_000}]}, "messages"),
]
COMPLETION_ONLY: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": [[]]}, "prompt"),
    ({"prompt": [1, "a"]}, "prompt"),
    ({"prompt": [[1], 2]}, "prompt"),
    ({"prompt": [-1]}, "prompt"),
    ({"prompt": [2**31]}, "prompt"),
    ({"prompt": [1.5]}, "prompt[0]"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": ["a"] * 2000}, "prompt"),
    ({"prompt": ["a"] * 1000, "n": 100}, "n"),
    ({"suffix": "x"}, "suffix"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": -1}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"prompt": "x" * 300}, "prompt"),
    ({"prompt": "x" * 200, "max_tokens": 100}, "max_tokens"),
    ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
]
RESPONSES = "/v1/responses"
TOOL = {"type": "function", "name": "f", "parameters": {}}
RESPONSES_ONLY: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": ""}, "input"),
    ({"input": []}, "input"),
    ({"input": ["a"]}, "input[0]"),
    ({"input": [{}]}, "input[0].type"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "function_call", "call_id": "a", "name": "f"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call", "call_id": "", "name": "f", "arguments": ""}]}, "input[0].call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "a", "output": 5}]}, "input[0].output"),
    ({"input": [{"type": "reasoning", "content": [{"text": 5}]}]}, "input[0].content[0].text"),
    ({"input": [{"role": "user", "content": "x", "extra": nested(60)}]}, "input"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 1000}, "max_output_tokens"),
    ({"max_tokens": 5}, "max_tokens"),
    ({"n": 2}, "n"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": [{"type": "function"}]}, "tools[0]"),
    ({"tool_choice": "required", "tools": [TOOL]}, "tool_choice"),
    ({"tool_choice": {"type": "file_search"}}, "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format"),
    ({"text": {"format": {"type": 5}}}, "text.format.type"),
    ({"reasoning": {"effort": 5}}, "reasoning.effort"),
    ({"metadata": {"a": 5}}, "metadata[...]"),
    ({"truncation": "middle"}, "truncation"),
    ({"previous_response_id": 5}, "previous_response_id"),
    ({"conversation": "c"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"background": True, "store": False}, "background"),
    ({"include": ["message.output_text.logprobs"], "top_logprobs": 50}, "top_logprobs"),
    ({"input": "x" * 500}, "input"),
]
CASES = (
    [(RESPONSES, {"input": "Hi", **b}, p) for b, p in RESPONSES_ONLY]
    + [(CHAT, {"messages": ASK, **b}, p) for b, p in BOTH + CHAT_ONLY]
    + [(COMPLETION, {"prompt": "a", **b}, p) for b, p in BOTH + COMPLETION_ONLY]
    + [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": ASK}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "abc"}, "tokens"),
        ("/detokenize", {"tokens": [-5]}, "tokens[0]"),
        ("/detokenize", {"tokens": [5, 258]}, "tokens"),
    ]
)


def test_the_table(server: LiveServer) -> None:
    with httpx.Client(base_url=server.url, verify=False) as client:
        wrong = []
        for path, body, param in CASES:
            try:
                check(client.post(path, json=body), 400, param)
            except AssertionError as e:
                wrong.append((path, str(body)[:200], e.args))
        assert not wrong, "\n".join(map(str, wrong))
        assert server.engine.seen == []
        assert client.post(CHAT, json={"messages": ASK}).status_code == 200


MESSAGES = "/v1/messages"
USER = {"role": "user", "content": "Hi"}
MESSAGES_CASES: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
    ({"messages": [{"role": "user", "content": [nested(60)]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "", "x": nested(60)}]}]}, "messages[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
    ({"messages": [USER, {"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}]}, "messages[1]"),
    ({"messages": [USER, {"role": "assistant", "content": [{"type": "server_tool_use"}]}]}, "messages[1].content[0]"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "5"}, "max_tokens"),
    ({"system": 5}, "system"),
    ({"system": [{"type": "image"}]}, "system"),
    ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]"),
    ({"tools": [{}]}, "tools[0].name"),
    ({"tool_choice": {"type": "must"}}, "tool_choice.type"),
    ({"tool_choice": {"type": "tool"}}, "tool_choice"),
    ({"tool_choice": {"type": "any"}, "tools": [{"name": "f"}]}, "tool_choice"),
    ({"thinking": {"type": "hard"}}, "thinking.type"),
    ({"output_config": {"format": {"type": "xml", "schema": {}}}}, "output_config.format"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
    ({"stop_sequences": [""]}, "stop"),
    ({"n": 2}, "n must be 1"),
    ({"temperature": -1}, "temperature"),
    ({"messages": [{"role": "user", "content": "x" * 500}]}, "518 tokens"),
]


def test_messages_table(server: LiveServer) -> None:
    """In Anthropic's shape, where the field can only be named by the sentence."""
    wrong = []
    for body, says in MESSAGES_CASES:
        response = CLIENT.post(server.url + MESSAGES, json={"messages": [USER], "max_tokens": 5, **body})
        found = response.json()
        if response.status_code != 400 or set(found) != {"type", "error", "request_id"} or says not in str(found):
            wrong.append((str(body)[:200], response.status_code, response.text))
    assert not wrong, "\n".join(map(str, wrong))
    assert server.engine.seen == []


@pytest.mark.parametrize("path", POOLING_PATHS)
def test_pooling_says_why_not(server: LiveServer, path: str) -> None:
    message = check(CLIENT.post(server.url + path, json={"model": "fake", "input": "x"}), 400, "model")
    assert "fake generates text" in message
    check(CLIENT.post(server.url + path, json={"model": "nope"}), 404, "model")
    check(CLIENT.post(server.url + path, content=b"{"), 400)
    check(CLIENT.get(server.url + path), 405)


def test_stored_responses(server: LiveServer) -> None:
    for method, path in (
        ("GET", "/v1/responses/nothing"),
        ("GET", "/v1/responses/nothing?stream=true"),
        ("DELETE", "/v1/responses/nothing"),
        ("POST", "/v1/responses/nothing/cancel"),
        ("GET", "/v1/responses/nothing/input_items"),
    ):
        check(CLIENT.request(method, server.url + path), 404, "response_id")
    check(CLIENT.put(server.url + "/v1/responses/nothing"), 405)
    check(CLIENT.get(server.url + "/v1/responses"), 405)
    response_id = CLIENT.post(server.url + RESPONSES, json={"input": "Hi"}).json()["id"]
    for query, param in (("limit=0", "limit"), ("limit=x", "limit"), ("limit=1000", "limit")):
        check(CLIENT.get(f"{server.url}/v1/responses/{response_id}/input_items?{query}"), 400, param)
    check(CLIENT.get(f"{server.url}/v1/responses/{response_id}?stream=true"), 400, "stream")
    check(CLIENT.get(f"{server.url}/v1/responses/{response_id}?stream=true&starting_after=-5"), 400, "starting_after")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe", b'{"messages": [}', b"[" * 100_000, b'{"a":' * 100_000],
)
def test_broken_json(server: LiveServer, body: bytes) -> None:
    for path in (CHAT, COMPLETION, RESPONSES, "/tokenize", "/detokenize"):
        check(CLIENT.post(server.url + path, content=body), 400)


def test_content_type_does_not_matter(server: LiveServer) -> None:
    body = b'{"messages": [{"role": "user", "content": "Hi"}]}'
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert CLIENT.post(server.url + CHAT, content=body, headers={"content-type": kind}).status_code == 200


def test_numbers_in_the_message(server: LiveServer) -> None:
    long = CLIENT.post(server.url + COMPLETION, json={"prompt": [65] * 300})
    message = check(long, 400, "prompt")
    assert "300" in message and "256" in message and long.json()["error"]["code"] == "context_length_exceeded"
    message = check(
        CLIENT.post(server.url + COMPLETION, json={"prompt": [65] * 200, "max_tokens": 57}), 400, "max_tokens"
    )
    assert "200" in message and "57" in message and "256" in message
    assert CLIENT.post(server.url + COMPLETION, json={"prompt": [65] * 200, "max_tokens": 56}).status_code == 200


def test_unknown_model_routes_and_methods(server: LiveServer) -> None:
    for path, body in ((CHAT, {"messages": ASK}), (COMPLETION, {"prompt": "a"}), ("/tokenize", {"prompt": "a"})):
        check(CLIENT.post(server.url + path, json={**body, "model": "nope"}), 404, "model")
        check(CLIENT.get(server.url + path), 405)
        check(CLIENT.delete(server.url + path), 405)
    check(CLIENT.post(server.url + "/v1/nothing", json={}), 404)
    check(CLIENT.post(server.url + "/v1/models", json={}), 405)
    check(CLIENT.post(server.url + CHAT + "/", json={"messages": ASK}), 404)


def test_no_tokenizer() -> None:
    with serving(FakeEngine(tokenizer=None)) as live:
        check(CLIENT.post(live.url + CHAT, json={"messages": ASK}), 400)
        check(CLIENT.post(live.url + COMPLETION, json={"prompt": "a"}), 400)
        assert CLIENT.post(live.url + COMPLETION, json={"prompt": [5], "max_tokens": 2}).status_code == 200


def test_body_bounds() -> None:
    with serving(FakeEngine(), ServerSettings(max_body_bytes=1000, body_timeout_s=0.3)) as live:
        check(CLIENT.post(live.url + CHAT, content=b"x" * 2000), 413)

        def chunks() -> Any:
            for _ in range(20):
                yield b"x" * 100

        check(CLIENT.post(live.url + CHAT, content=chunks()), 413)

        def slow() -> Any:
            import time

            yield b"{"
            time.sleep(0.8)
            yield b"}"

        check(CLIENT.post(live.url + CHAT, content=slow()), 408)
