"""A strict reader of OpenAI streams: anything that a client could trip over is an assertion."""

import json
from typing import Any

import httpx


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """The JSON of each event, checked byte by byte; [DONE] must be there, once, last."""
    assert response.status_code == 200, response.read()
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    raw = response.read().decode("utf-8")
    assert raw.endswith("data: [DONE]\n\n")
    blocks = raw.removesuffix("\n\n").split("\n\n")
    blocks = [block for block in blocks if block != ": waiting"]  # a comment, wherever nothing else is said for long
    assert all(b.startswith("data: ") and "\n" not in b for b in blocks), raw
    payloads = [b.removeprefix("data: ") for b in blocks]
    assert payloads.count("[DONE]") == 1
    return [json.loads(p) for p in payloads[:-1]]


def collect(chunks: list[dict[str, Any]], *, chat: bool, usage: bool, continuous: bool = False) -> dict[str, Any]:
    """Checks the order of things and puts the choices together as a whole answer has them."""
    head = {k: chunks[0][k] for k in ("id", "object", "created", "model", "system_fingerprint")}
    assert head["object"] == ("chat.completion.chunk" if chat else "text_completion")
    choices: dict[int, dict[str, Any]] = {}
    final_usage = None
    for at, chunk in enumerate(chunks):
        assert {k: chunk[k] for k in head} == head
        if "prompt_progress" in chunk:
            assert not choices and chunk["choices"] == [], "the progress of prompts is said before anything else"
            continue
        if not chunk["choices"]:
            assert usage and at == len(chunks) - 1, "only the last chunk has no choices"
            final_usage = chunk["usage"]
            continue
        assert "usage" in chunk if usage else "usage" not in chunk
        if usage:
            assert (chunk["usage"] is not None) == continuous
        for choice in chunk["choices"]:
            _add(choices, choice, chat)
    assert (final_usage is not None) == usage
    assert all(c["finish_reason"] is not None for c in choices.values())
    return {"choices": [choices[i] for i in sorted(choices)], "usage": final_usage}


def _add(choices: dict[int, dict[str, Any]], choice: dict[str, Any], chat: bool) -> None:
    index = choice["index"]
    if index not in choices:
        if chat:
            assert choice["delta"] == {"role": "assistant", "content": ""}, "a choice opens with its role"
            assert choice["finish_reason"] is None
        choices[index] = {"text": "", "logprobs": None, "finish_reason": None, "stop_reason": None, "token_ids": []}
    elif chat:
        assert "role" not in choice["delta"], "the role is said once"
    whole = choices[index]
    assert whole["finish_reason"] is None, "nothing follows a finish reason"
    whole["text"] += choice["delta"].get("content", "") if chat else choice["text"]
    whole["finish_reason"] = choice["finish_reason"]
    whole["stop_reason"] = choice.get("stop_reason")
    whole["token_ids"] += choice.get("token_ids", [])
    if choice["logprobs"] is not None:
        if whole["logprobs"] is None:
            whole["logprobs"] = choice["logprobs"]
        else:
            for key, value in choice["logprobs"].items():
                if value is not None:
                    whole["logprobs"][key] += value


def plain(answer: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    """A whole answer in the form that `collect` gives."""
    return {
        "choices": [
            {
                "text": c["message"]["content"] if chat else c["text"],
                "logprobs": c["logprobs"],
                "finish_reason": c["finish_reason"],
                "stop_reason": c["stop_reason"],
                "token_ids": c.get("token_ids", []),
            }
            for c in answer["choices"]
        ],
        "usage": answer["usage"],
    }
