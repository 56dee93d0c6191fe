"""`kill -9` of the engine core under a real server, in the middle of streams: no token is lost or repeated."""

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.http.test_live import process

ASKED: list[dict[str, Any]] = [
    {"prompt": "The function returns", "temperature": 0},
    {"prompt": "A list of names", "temperature": 0.9, "seed": 11},
    {"prompt": "def main", "temperature": 0.8, "seed": 12, "logprobs": 2, "repetition_penalty": 1.1},
    {"prompt": [20, 30, 40, 50] * 20, "temperature": 1.0, "seed": 13, "n": 2},
]


def core_pid(server_pid: int) -> int | None:
    """The child that runs the core."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if int(stat[1]) == server_pid and b"kvasir.assembly.core" in command and stat[0] != "Z":
            return int(entry.name)
    return None


def stream(url: str, body: dict[str, Any], seen: list[int]) -> list[tuple[str, list[Any]]]:
    """(text, logprobs of each token) by choice; `seen` counts chunks, so that the killer knows where streams are."""
    answers: dict[int, tuple[list[str], list[Any]]] = {}
    reasons: list[str] = []
    ask = {**body, "max_tokens": 160, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=ask, timeout=90) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            for choice in chunk["choices"]:
                text, logprobs = answers.setdefault(choice["index"], ([], []))
                text.append(choice["text"])
                logprobs += (choice.get("logprobs") or {}).get("token_logprobs", [])
                reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
            seen.append(1)
    assert reasons == ["length"] * len(answers)
    return [("".join(text), logprobs) for _, (text, logprobs) in sorted(answers.items())]


def all_streams(url: str, kill_after: list[int], server_pid: int) -> list[list[tuple[str, list[Any]]]]:
    found: list[Any] = [None] * len(ASKED)
    seen: list[int] = []

    def run(i: int) -> None:
        found[i] = stream(url, ASKED[i], seen)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(ASKED))]
    for thread in threads:
        thread.start()
    for count in kill_after:
        deadline = time.monotonic() + 60
        while len(seen) < count and time.monotonic() < deadline:
            time.sleep(0.005)
        pid = core_pid(server_pid)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert all(answer is not None for answer in found), "a stream failed; see the thread's traceback above"
    return found


@pytest.mark.parametrize("kill_after", [[60], pytest.param([1, 200], marks=pytest.mark.slow)])
def test_streams_go_on_after_the_core_is_killed(kill_after: list[int]) -> None:
    with process("--max-core-restarts", "5") as (url, server):
        undisturbed = all_streams(url, [], server.pid)
        disturbed = all_streams(url, kill_after, server.pid)
        for before, after in zip(undisturbed, disturbed, strict=True):
            assert [text for text, _ in after] == [text for text, _ in before]
            for (_, expected), (_, found) in zip(before, after, strict=True):
                assert found == pytest.approx(expected, abs=1e-3)  # a prefill rounds otherwise than decode steps do
        assert httpx.get(f"{url}/health").status_code == 200


def test_without_restarts_the_first_death_ends_the_server() -> None:
    with process("--max-core-restarts", "0") as (_, server):
        pid = core_pid(server.pid)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert server.wait(20) == 1
