"""One streamed answer -> its times. Done after the run, so that it costs the measurement nothing."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import msgspec

from kvasir.bench.client import Reply


@dataclass
class Measured:
    """Times of one request in seconds; `error` is set when it failed.

    Attributes:
        ttft: sent to the first text.
        itls: gaps between reads that brought text.
        tpot: (last text - first text) / (tokens - 1); None for answers of one token.
    """

    error: str | None = None
    prompt_tokens: int = 0
    output_tokens: int = 0
    started: float = 0.0
    ttft: float = 0.0
    e2e: float = 0.0
    itls: list[float] = field(default_factory=list)
    tpot: float | None = None
    text: str = ""


def measure(reply: Reply) -> Measured:
    if reply.status != 200:
        return Measured(error=f"HTTP {reply.status}: {_message(bytes(reply.body))}", started=reply.started)
    result = Measured(started=reply.started, e2e=reply.ended - reply.started)
    times: list[float] = []
    pieces: list[str] = []
    for at, event in _events(reply):
        if "error" in event:
            return Measured(error=str(event["error"].get("message", event["error"])), started=reply.started)
        usage = event.get("usage")
        if usage:
            result.prompt_tokens, result.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        for choice in event.get("choices") or ():
            text = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
            if text:
                pieces.append(text)
                if not times or at > times[-1]:
                    times.append(at)
    result.text = "".join(pieces)
    if not times and not result.output_tokens:
        result.error = "the answer is empty"
        return result
    first = times[0] if times else reply.ended  # an answer of special tokens only has no text
    last = times[-1] if times else reply.ended
    result.ttft = first - reply.started
    result.itls = [b - a for a, b in pairwise(times)]
    if not result.output_tokens:
        result.output_tokens = len(times)  # a server without usage: its chunks are the best guess
    if result.output_tokens > 1:
        result.tpot = (last - first) / (result.output_tokens - 1)
    return result


def _events(reply: Reply) -> list[tuple[float, dict[str, Any]]]:
    """Each event with the time of the read that completed it."""
    found = []
    body, reads = bytes(reply.body), iter(reply.reads)
    when, have = next(reads, (reply.ended, len(body)))
    at = 0
    decode = msgspec.json.decode
    while (end := body.find(b"\n\n", at)) >= 0:
        while have < end + 2:
            when, have = next(reads, (reply.ended, len(body)))
        for line in body[at:end].split(b"\n"):
            if line.startswith(b"data: ") and line != b"data: [DONE]":
                found.append((when, decode(line[6:])))
        at = end + 2
    return found


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])[:300]
    except (msgspec.DecodeError, KeyError, TypeError):
        return body[:200].decode("utf-8", errors="replace")
