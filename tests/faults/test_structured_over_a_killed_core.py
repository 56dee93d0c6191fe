"""`kill -9` of the engine core while answers follow a grammar: the new core takes each up in the middle of it."""

import json
import os
import re
import signal
import threading
import time
from typing import Any

import httpx
import jsonschema

from tests.faults.harness import core_pid
from tests.http.test_live import process
from tests.structured.schemas import SCHEMAS

WORDS = r"([a-z]{3,12} ){25}[a-z]{3,12}!"
LIST = {"type": "array", "items": SCHEMAS["nested objects"], "minItems": 3, "maxItems": 3}
ASKED: list[dict[str, Any]] = [
    {"prompt": "The function returns", "guided_regex": WORDS, "temperature": 0},
    {"prompt": "A list of names", "guided_regex": WORDS, "temperature": 1.0, "seed": 11, "n": 2},
    {"prompt": "def main", "guided_json": LIST, "temperature": 0.9, "seed": 12, "repetition_penalty": 1.05},
    {"prompt": "Nothing holds this one", "temperature": 1.0, "seed": 13, "max_tokens": 200, "ignore_eos": True},
]


def stream(url: str, body: dict[str, Any], seen: list[int]) -> list[str]:
    texts: dict[int, list[str]] = {}
    with httpx.stream(
        "POST", f"{url}/v1/completions", json={"max_tokens": 900, **body, "stream": True}, timeout=90
    ) as r:
        assert r.status_code == 200
        for line in r.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                for choice in chunk["choices"]:
                    texts.setdefault(choice["index"], []).append(choice["text"])
                seen.append(1)
    return ["".join(pieces) for _, pieces in sorted(texts.items())]


def all_streams(url: str, kill_after: list[int], server_pid: int) -> list[list[str]]:
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
    return found


def test_grammars_go_on_after_the_core_is_killed() -> None:
    with process("--max-core-restarts", "5") as (url, server):
        undisturbed = all_streams(url, [], server.pid)
        disturbed = all_streams(url, [120], server.pid)
    assert disturbed == undisturbed
    for text in [*undisturbed[0], *undisturbed[1]]:
        assert re.fullmatch(WORDS, text)
    jsonschema.validate(json.loads(undisturbed[2][0]), LIST)
    assert len(undisturbed[1]) == 2
