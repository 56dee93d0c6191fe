"""More than a real server can take: many times its queue at once, and disks that are full."""

import asyncio
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.faults.harness import Hurt, hurt_server, metric, run_all
from tests.http.live import CLIENT

PROMPTS = [[20 + i, 30, 40 + i] * 5 for i in range(4)]
NUM_SEQS, NUM_QUEUED = 8, 32


def body(i: int) -> dict[str, object]:
    return {"prompt": PROMPTS[i % 4], "max_tokens": 100, "ignore_eos": True, "temperature": 0}


async def ask_at_once(hurt: Hurt, count: int) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=90, limits=limits, verify=False, trust_env=False) as client:
        return list(
            await asyncio.gather(*(client.post(hurt.url + "/v1/completions", json=body(i)) for i in range(count)))
        )


def test_400_requests_into_a_queue_of_32(tmp_path: Path) -> None:
    flags = ("--max-num-seqs", str(NUM_SEQS), "--max-queued-requests", str(NUM_QUEUED))
    with hurt_server(tmp_path, *flags) as hurt:
        expected = [CLIENT.post(hurt.url + "/v1/completions", json=body(i), timeout=60).json() for i in range(4)]
        waiting, over = [0.0], threading.Event()

        def look() -> None:
            with httpx.Client(verify=False, trust_env=False) as client:
                while not over.wait(0.05):
                    state = client.get(hurt.url + "/v1/engine/state").json()
                    waiting.append(state["core"]["num_waiting"])

        thread = threading.Thread(target=look)
        thread.start()
        try:
            replies = asyncio.run(ask_at_once(hurt, 400))
        finally:
            over.set()
            thread.join()
        statuses = Counter(reply.status_code for reply in replies)
        assert set(statuses) == {200, 429} and statuses[200] >= NUM_SEQS + NUM_QUEUED, statuses
        for i, reply in enumerate(replies):
            if reply.status_code == 200:
                assert reply.json()["choices"] == expected[i % 4]["choices"]
                assert reply.json()["usage"]["completion_tokens"] == 100
            else:
                assert int(reply.headers["retry-after"]) >= 1
                error = reply.json()["error"]
                assert error["type"] == "rate_limit_error" and "--max-queued-requests" in error["message"]
        assert 0 < max(waiting) <= NUM_QUEUED
        assert metric(hurt.url, "requests_refused_total") == statuses[429]
        hurt.assert_all_free()
        after = CLIENT.post(hurt.url + "/v1/completions", json=body(0), timeout=60).json()
        assert after["choices"] == expected[0]["choices"], "and it takes requests again"


@pytest.mark.parametrize("flags", [(), ("--api-server-count", "2")])
def test_a_log_on_a_full_disk_costs_nothing_but_the_log(tmp_path: Path, flags: tuple[str, ...]) -> None:
    """Also while a core is killed, its incident is written, and every request is logged."""
    with hurt_server(tmp_path, "--enable-log-requests", *flags, log_to="/dev/full") as hurt:
        undisturbed = run_all(hurt, ["plain", "n3"])
        disturbed = run_all(hurt, ["plain", "n3"], lambda progress: progress.wait_for(30) and hurt.signal_core())
        for kind, answer in disturbed.items():
            answer.assert_same(undisturbed[kind])
        assert CLIENT.post(hurt.url + "/v1/completions", content=b"{").status_code == 400
        hurt.server.terminate()
        assert hurt.server.wait(20) == 0
