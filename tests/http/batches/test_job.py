"""One batch: ended at any moment and run again, late, with a full disk; every line is answered once."""

import asyncio
import errno
import json
import random
from pathlib import Path
from typing import Any

import pytest

from kvasir.entrypoints.batch.lines import BatchAnswer, BatchResponse
from kvasir.entrypoints.http.batches import job as job_module
from kvasir.entrypoints.http.batches import journal as journal_module
from kvasir.entrypoints.http.batches.gate import Gate
from kvasir.entrypoints.http.batches.job import BatchJob
from kvasir.entrypoints.http.batches.schema import Batch, StoredBatch
from kvasir.entrypoints.http.batches.store import Store
from kvasir.entrypoints.http.guard.account import Account
from kvasir.entrypoints.http.guard.keys import NOBODY, ApiKey
from kvasir.errors import EngineDeadError

NUM_LINES = 200


class Answerer:
    """Takes a moment, and fails now and then."""

    def __init__(self, rng: random.Random):
        self._rng = rng
        self.tries: dict[str, int] = {}
        self.dies_at: int | None = None

    async def answer(self, line: bytes, answer_id: str, endpoint: str | None = None) -> BatchAnswer:
        custom_id = json.loads(line)["custom_id"]
        self.tries[custom_id] = self.tries.get(custom_id, 0) + 1
        if self.dies_at is not None and len(self.tries) >= self.dies_at:
            raise EngineDeadError("gone")
        await asyncio.sleep(self._rng.random() * 0.01)
        status = 400 if int(custom_id) % 10 == 0 else 200
        return BatchAnswer(answer_id, custom_id, BatchResponse(status, "r", {}), None)


class Bench:
    def __init__(self, folder: Path, seed: int = 0, expires_at: float = 2e9):
        self.store = Store(str(folder))
        self.answerer = Answerer(random.Random(seed))
        self.interactive = 0
        self.account: Account | None = Account(NOBODY)
        self.gate = Gate(32, None, lambda: self.interactive)
        path = self.store.upload_path()
        path.write_text("".join(json.dumps({"custom_id": str(i), "url": "/x", "body": {}}) + "\n" for i in self.lines))
        file = self.store.add_file(path, "f", "batch", 3600, "")
        batch = Batch(
            id="batch_0a", endpoint="/x", input_file_id=file.id, completion_window="24h",
            created_at=1, expires_at=int(expires_at),
        )  # fmt: skip
        self.store.add_batch(StoredBatch(batch=batch, owner="", output_id="file-0", error_id="file-1"))

    lines = range(1, NUM_LINES + 1)

    def job(self, clock: Any = lambda: 1e9) -> BatchJob:
        return BatchJob(
            self.store.batch("batch_0a"), self.store, self.answerer, self.gate, lambda name: self.account,  # type: ignore[arg-type]
            max_line_bytes=1 << 20, file_ttl_s=3600.0, clock=clock,
        )  # fmt: skip

    @property
    def batch(self) -> Batch:
        return self.store.batch("batch_0a").batch

    def rows(self, *file_ids: str | None) -> list[Any]:
        found = [x for i in file_ids if i is not None for x in self.store.path(i).read_text().splitlines()]
        return [json.loads(text) for text in found]

    def check(self) -> None:
        batch = self.batch
        output, errors = self.rows(batch.output_file_id), self.rows(batch.error_file_id)
        assert sorted(int(row["custom_id"]) for row in output + errors) == list(self.lines)
        assert all(row["id"] == f"batch_req_0a_{row['custom_id']}" for row in output + errors)
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (NUM_LINES, len(output), len(errors))
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                assert self.store.file(file_id, None).bytes == self.store.path(file_id).stat().st_size


@pytest.mark.parametrize("seed", range(6))
async def test_ended_at_any_moment_and_run_again(tmp_path: Path, seed: int) -> None:
    bench, rng = Bench(tmp_path, seed), random.Random(seed)
    for _ in range(100):
        task = asyncio.create_task(bench.job().run())
        await asyncio.wait((task,), timeout=rng.random() * 0.3)
        if task.done():
            break
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    task.result()
    assert bench.batch.status == "completed" and bench.gate.num_taken == 0
    bench.check()


async def test_withdrawn_lines_run_again(tmp_path: Path) -> None:
    bench, rng = Bench(tmp_path), random.Random(1)
    task = asyncio.create_task(bench.job().run())
    while not task.done():
        bench.interactive = rng.choice((0, 0, 32))
        bench.gate.look()
        await asyncio.sleep(0.002)
    bench.check()
    assert max(bench.answerer.tries.values()) > 1


async def test_a_late_batch_expires(tmp_path: Path) -> None:
    bench = Bench(tmp_path, expires_at=1000)
    bench.gate.places = 4  # so that it cannot be through at once
    await bench.job(lambda: 2000 if len(bench.answerer.tries) > 50 else 500).run()
    assert bench.batch.status == "expired" and bench.batch.expired_at
    bench.check()
    codes = {row["error"]["code"] for row in bench.rows(bench.batch.error_file_id) if row["error"]}
    assert codes == {"batch_expired"} and 20 < bench.batch.request_counts.completed < NUM_LINES * 0.9


async def test_a_dead_engine_loses_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.answerer.dies_at = 120
    with pytest.raises(EngineDeadError):
        await bench.job().run()
    assert bench.batch.status == "in_progress" and 0 < bench.batch.request_counts.completed < NUM_LINES
    bench.answerer.dies_at = None
    await bench.job().run()
    bench.check()


async def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, calls = Bench(tmp_path), 0
    real = journal_module.os.fsync

    def full(fd: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd)

    monkeypatch.setattr(journal_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        await bench.job().run()
    assert bench.batch.status == "in_progress"
    await bench.job().run()
    bench.check()


async def test_answers_that_are_none_fail_the_batch(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.store.path("file-0").write_text("nonsense\n")
    await bench.job().run()
    assert bench.batch.status == "failed" and bench.batch.errors["data"][0]["code"] == "unreadable_answers"


async def test_cancelled_before_it_began(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.store.change("batch_0a", lambda stored: stored.batch.enter("cancelling", 1e9))
    await bench.job().run()
    assert bench.batch.status == "cancelled" and bench.answerer.tries == {}
    bench.check()


async def test_a_key_at_its_limit_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_LIMIT_POLL_S", 0.05)
    now = 1e9
    bench = Bench(tmp_path)
    bench.account = Account(ApiKey(name="a", requests_per_minute=NUM_LINES // 2), lambda: now)
    task = asyncio.create_task(bench.job().run())
    await asyncio.sleep(1)
    assert len(bench.answerer.tries) == NUM_LINES // 2 and not task.done()
    now += 60
    await task
    bench.check()
    assert (bench.account.today.requests, bench.account.today.refused) == (NUM_LINES, 0)


async def test_a_key_that_is_gone_ends_its_batches(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.account = None
    await bench.job().run()
    bench.check()
    assert {row["error"]["code"] for row in bench.rows(bench.batch.error_file_id)} == {"invalid_api_key"}
    assert bench.answerer.tries == {}
