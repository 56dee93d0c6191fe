"""A server to be hurt, and streams of every kind whose answers can be compared."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.poisoned_core import POISON
from tests.http.live import CLIENT
from tests.http.test_live import metric, process

__all__ = ["KINDS", "Answer", "Hurt", "Progress", "core_pid", "hurt_server", "metric", "run_all"]

GOLDEN = Path(__file__).parents[1] / "e2e" / "data" / "demo_golden.jsonl"


def _tool_call() -> dict[str, Any]:
    items = map(json.loads, GOLDEN.read_text(encoding="utf-8").splitlines())
    return next(item for item in items if item["skill"] == "tool_call")


_TOOLS = _tool_call()
_FREE = {"max_tokens": 160, "ignore_eos": True}
_COUNT = [{"role": "user", "content": "Count down from 60 to 1."}]

_PERSON = {"name": {"type": "string", "minLength": 8, "maxLength": 20}, "age": {"type": "integer"}}
_PEOPLE = {
    "type": "array", "minItems": 3, "maxItems": 3,
    "items": {"type": "object", "additionalProperties": False, "properties": _PERSON, "required": ["name", "age"]},
}  # fmt: skip

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("/v1/chat/completions", {"messages": _COUNT, "temperature": 0, "max_tokens": 400}),
    "seeded": ("/v1/completions", {"prompt": "A list of names", "temperature": 0.9, "seed": 11, **_FREE}),
    "n3": ("/v1/completions", {"prompt": [20, 30, 40, 50] * 20, "temperature": 1.0, "seed": 13, "n": 3, **_FREE}),
    "tools": (
        "/v1/chat/completions",
        {"messages": _TOOLS["messages"], "tools": _TOOLS["tools"], "temperature": 0, "max_tokens": 200},
    ),
    "grammar": (
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "Make a record of three people."}], "temperature": 0.9, "seed": 21,
            "max_tokens": 400,
            "response_format": {"type": "json_schema", "json_schema": {"name": "people", "schema": _PEOPLE}},
        },
    ),
    "logprobs": (
        "/v1/completions",
        {"prompt": "def main", "temperature": 0.8, "seed": 12, "logprobs": 2, "repetition_penalty": 1.1, **_FREE},
    ),
    "stop": ("/v1/chat/completions", {"messages": _COUNT, "temperature": 0, "stop": [", 21,"], "max_tokens": 400}),
    "min_tokens": (
        "/v1/completions", {"prompt": "x", "temperature": 0.7, "seed": 3, "min_tokens": 120, "max_tokens": 140},
    ),
}  # fmt: skip


@dataclass
class Answer:
    """What a client has put together, by choice where there are several."""

    texts: dict[int, str] = field(default_factory=dict)
    calls: dict[int, list[Any]] = field(default_factory=dict)
    finish: dict[int, str] = field(default_factory=dict)
    logprobs: list[float] = field(default_factory=list)
    completion_tokens: int = -1

    def take(self, chunk: dict[str, Any]) -> None:
        if chunk.get("usage"):
            self.completion_tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            index, delta = choice["index"], choice.get("delta", {})
            assert index not in self.finish, "nothing follows a finish reason"
            self.texts[index] = self.texts.get(index, "") + (choice.get("text") or delta.get("content") or "")
            for piece in delta.get("tool_calls") or ():
                calls = self.calls.setdefault(piece["index"], ["", ""])
                calls[0] += piece["function"].get("name") or ""
                calls[1] += piece["function"].get("arguments") or ""
            self.logprobs += (choice.get("logprobs") or {}).get("token_logprobs", [])
            if choice["finish_reason"]:
                self.finish[index] = choice["finish_reason"]

    def assert_same(self, other: "Answer") -> None:
        assert self.texts == other.texts
        assert self.calls == other.calls
        assert self.finish == other.finish
        assert self.completion_tokens == other.completion_tokens
        assert self.logprobs == pytest.approx(other.logprobs, abs=1e-3)  # a prefill rounds otherwise than decodes do


def core_pid(server_pid: int) -> int | None:
    """The child that runs the core, if there is one now."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        ours = b"kvasir.assembly.core" in command or b"tests.faults.poisoned_core" in command
        if int(stat[1]) == server_pid and ours and stat[0] != "Z":
            return int(entry.name)
    return None


@dataclass
class Hurt:
    """A server and what can be done to it."""

    url: str
    server: "subprocess.Popen[bytes]"
    incident_dir: Path

    def core_pid(self) -> int | None:
        return core_pid(self.server.pid)

    def signal_core(self, signum: int = signal.SIGKILL) -> int:
        """Sends a signal to the core as soon as there is one."""
        deadline = time.monotonic() + 30
        while (pid := self.core_pid()) is None:
            assert time.monotonic() < deadline, "no core came back"
            time.sleep(0.01)
        os.kill(pid, signum)
        return pid

    def incidents(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.incident_dir.glob("incident-*.json"))]

    def restarts(self, reason: str | None = None) -> float:
        if reason is None:
            return metric(self.url, "engine_restarts_total")
        lines = CLIENT.get(self.url + "/metrics").text.splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if line.startswith("kvasir:engine_restarts_total{") and f'reason="{reason}"' in line
        )

    def until_ready(self) -> None:
        deadline = time.monotonic() + 30
        while CLIENT.get(self.url + "/ready").status_code != 200:
            assert time.monotonic() < deadline, "it never got ready"
            time.sleep(0.02)

    def assert_all_free(self) -> None:
        """Nothing runs and every block is free, within a second or so."""
        deadline = time.monotonic() + 5
        names = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
        while any(metric(self.url, name) for name in names) or CLIENT.get(self.url + "/load").json()["server_load"]:
            assert time.monotonic() < deadline, {name: metric(self.url, name) for name in names}
            time.sleep(0.05)

    def stream(self, kind: str, on_chunk: Callable[[], None] = lambda: None) -> Answer:
        path, body = KINDS[kind]
        ask = {**body, "stream": True, "stream_options": {"include_usage": True}}
        answer, ended = Answer(), False
        with httpx.stream("POST", self.url + path, json=ask, timeout=90) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line == "data: [DONE]":
                    ended = True
                elif line.startswith("data: "):
                    chunk = json.loads(line[6:])
                    assert "error" not in chunk, chunk
                    answer.take(chunk)
                    on_chunk()
        assert ended, "the stream broke off"
        return answer


@contextmanager
def hurt_server(
    folder: Path, *flags: str, poison: dict[int, tuple[str, int]] | None = None, log_to: str | None = None
) -> Iterator[Hurt]:
    """The bundled model in float32."""
    module = "kvasir" if poison is None else "tests.faults.poisoned_server"
    env = {} if poison is None else {POISON: json.dumps(poison)}
    flags = ("--incident-dir", str(folder), *flags)
    with process(*flags, model="kvasir-demo", module=module, env=env, log_to=log_to) as (url, server):
        yield Hurt(url, server, folder)


class Progress:
    """The chunks that the streams of a round have had, by kind of stream."""

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self.threads: list[threading.Thread] = []

    def wait_for(self, count: int, *, of_all: bool = False) -> bool:
        """Whether there were so many while some stream was still running; `of_all`: each stream has had one, too."""
        while len(self.chunks) < count or (of_all and len(set(self.chunks)) < len(self.threads)):
            if not any(thread.is_alive() for thread in self.threads):
                return False
            time.sleep(0.001)
        return True


def run_all(hurt: Hurt, kinds: list[str], hurting: Callable[[Progress], object] = lambda _: None) -> dict[str, Answer]:
    """One stream of each kind at the same time, and `hurting` beside them."""
    found: dict[str, Answer] = {}
    progress = Progress()

    def run(kind: str) -> None:
        found[kind] = hurt.stream(kind, lambda: progress.chunks.append(kind))

    threads = progress.threads = [threading.Thread(target=run, args=(kind,)) for kind in kinds]
    for thread in threads:
        thread.start()
    hurting(progress)
    for thread in threads:
        thread.join()
    assert found.keys() == set(kinds), "a stream failed; see the thread's traceback above"
    return found
