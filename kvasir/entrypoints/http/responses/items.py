"""Parts -> items of a response."""

from typing import Any

from kvasir.entrypoints.http.deltas import TokenInfo
from kvasir.entrypoints.http.parts import Part

_PREFIXES = {"reasoning": "rs", "text": "msg", "call": "fc"}


def item_id(response_id: str, part: Part) -> str:
    return f"{_PREFIXES[part.kind]}_{response_id.removeprefix('resp_')}{part.index:04x}"


def item(response_id: str, part: Part, status: str, *, empty: bool = False) -> dict[str, Any]:
    """`empty` leaves out what will be said in events."""
    body: dict[str, Any] = {"id": item_id(response_id, part), "status": status}
    if part.kind == "call":
        arguments = "" if empty else part.text
        return {**body, "type": "function_call", "call_id": part.call_id, "name": part.name, "arguments": arguments}
    content = [] if empty else [content_part(part)]
    if part.kind == "reasoning":
        return {**body, "type": "reasoning", "summary": [], "content": content}
    return {**body, "type": "message", "role": "assistant", "content": content}


def content_part(part: Part, *, empty: bool = False) -> dict[str, Any]:
    text = "" if empty else part.text
    if part.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    logprobs = [] if empty else token_logprobs(part.logprobs)
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def token_logprobs(infos: list[TokenInfo]) -> list[dict[str, Any]]:
    return [{**_named(info), "top_logprobs": [_named(top) for top in info.top]} for info in infos]


def _named(info: TokenInfo) -> dict[str, Any]:
    return {"token": info.token, "bytes": list(info.raw), "logprob": info.logprob}
