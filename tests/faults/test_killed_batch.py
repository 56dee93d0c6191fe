"""`kill -9` of the server in the middle of a batch: the next one goes on, and every line is answered exactly once."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.faults.harness import core_pid
from tests.http.test_live import process

NUM_LINES = 1000
BAD = {17: "{broken", 400: '{"custom_id": "c400", "url": "/v1/nothing", "body": {}}'}


def lines() -> str:
    def body(i: int) -> str:
        asked = {"prompt": [20 + i % 300, 30], "max_tokens": 2 + i % 5, "temperature": 0, "ignore_eos": True}
        return json.dumps({"custom_id": f"c{i}", "method": "POST", "url": "/v1/completions", "body": asked})

    return "\n".join(BAD.get(i) or body(i) for i in range(1, NUM_LINES + 1))


def client_of(url: str) -> OpenAI:
    return OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)


def wait_for(client: OpenAI, batch_id: str, done: Any, timeout_s: float = 90) -> Any:
    deadline = time.monotonic() + timeout_s
    while not done(batch := client.batches.retrieve(batch_id)):
        assert time.monotonic() < deadline and batch.request_counts.failed <= len(BAD), batch
        time.sleep(0.05)
    return batch


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_batch_goes_on_after_its_server_was_ended(tmp_path: Path, signum: int) -> None:
    flags = ("--batch-dir", str(tmp_path), "--max-num-seqs", "16")
    with process(*flags) as (url, server):
        client = client_of(url)
        file = client.files.create(file=("in.jsonl", lines().encode()), purpose="batch")
        batch_id = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h").id
        wait_for(client, batch_id, lambda batch: batch.request_counts.completed >= NUM_LINES // 4)
        core = core_pid(server.pid)
        server.send_signal(signum)
        server.wait(20)
        assert core is not None
        for _ in range(100):  # without its front the core ends by itself
            if not Path(f"/proc/{core}").exists():
                break
            time.sleep(0.1)
    before = [path.read_bytes() for path in sorted((tmp_path / "files").iterdir()) if path.name != file.id]
    kept = sum(content.count(b"\n") for content in before)
    assert NUM_LINES // 4 <= kept < NUM_LINES
    with process(*flags) as (url, server):
        client = client_of(url)
        again = client.batches.retrieve(batch_id)
        assert again.status == "in_progress" and again.request_counts.completed >= NUM_LINES // 4
        batch = wait_for(client, batch_id, lambda batch: batch.status == "completed")
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (NUM_LINES, NUM_LINES - 2, 2)
        output = client.files.content(batch.output_file_id).content
        errors = client.files.content(batch.error_file_id).content
    whole_lines = [content[: content.rfind(b"\n") + 1] for content in before]
    assert all(output.startswith(x) or errors.startswith(x) for x in whole_lines), "an answer was written anew"
    rows = [json.loads(text) for text in output.splitlines() + errors.splitlines()]
    numbers = sorted(int(row["id"].rsplit("_", 1)[1]) for row in rows)
    assert numbers == list(range(1, NUM_LINES + 1))
    for row in rows:
        number = int(row["id"].rsplit("_", 1)[1])
        if number in BAD:
            continue
        assert row["custom_id"] == f"c{number}"
        assert row["response"]["body"]["usage"]["completion_tokens"] == 2 + number % 5


@pytest.mark.parametrize("num_cores", ["1", "2"])
def test_a_killed_core_costs_a_batch_nothing(tmp_path: Path, num_cores: str) -> None:
    flags = ("--max-core-restarts", "3", "--data-parallel-size", num_cores)
    with process("--batch-dir", str(tmp_path), *flags) as (url, server):
        client = client_of(url)
        file = client.files.create(file=("in.jsonl", lines().encode()), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        wait_for(client, batch.id, lambda batch: batch.request_counts.completed >= 100)
        pid = core_pid(server.pid)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        batch = wait_for(client, batch.id, lambda batch: batch.status == "completed")
        assert batch.request_counts.completed == NUM_LINES - 2
