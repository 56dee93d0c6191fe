"""`kill -9` of the engine core under a real server, in the middle of streams: no token is lost or repeated."""

import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.harness import KINDS, Answer, Hurt, Progress, hurt_server, run_all
from tests.http.live import CLIENT


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hurt]:
    with hurt_server(tmp_path_factory.mktemp("incidents"), "--max-core-restarts", "100000") as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(hurt: Hurt) -> dict[str, Answer]:
    answers = run_all(hurt, list(KINDS))
    assert answers["stop"].texts[0] and answers["stop"].texts[0] in answers["plain"].texts[0]
    assert len(json.loads(answers["grammar"].texts[0])) == 3
    assert answers["tools"].calls and answers["logprobs"].logprobs and len(answers["n3"].texts) == 3
    return answers


@pytest.mark.parametrize("rounds", [3, pytest.param(50, marks=(pytest.mark.slow, pytest.mark.timeout(900)))])
def test_streams_go_on_after_the_core_is_killed(hurt: Hurt, undisturbed: dict[str, Answer], rounds: int) -> None:
    rng = random.Random(rounds)
    before = hurt.restarts("killed")
    kills: list[int] = []

    def kill(progress: Progress) -> None:
        for moment in sorted(rng.sample(range(500), rng.choice((1, 1, 2)))):
            if progress.wait_for(moment):
                kills.append(hurt.signal_core())

    for _ in range(rounds):
        disturbed = run_all(hurt, list(KINDS), kill)
        for kind, answer in disturbed.items():
            answer.assert_same(undisturbed[kind])
    hurt.until_ready()
    assert len(kills) >= rounds, "streams were over before they could be hurt"
    assert before < hurt.restarts("killed") <= before + len(kills)  # one that is still starting dies without a count
    hurt.assert_all_free()


def test_ten_kills_in_a_row(hurt: Hurt, undisturbed: dict[str, Answer]) -> None:
    pids = set()

    def kill(progress: Progress) -> None:
        for i in range(10):
            assert progress.wait_for(20 * (i + 1))
            pids.add(hurt.signal_core())
            while hurt.core_pid() in pids:
                time.sleep(0.002)

    for kind, answer in run_all(hurt, ["plain", "seeded", "n3"], kill).items():
        answer.assert_same(undisturbed[kind])
    assert len(pids) == 10
    hurt.until_ready()
    hurt.assert_all_free()


def test_a_whole_answer_waits_for_the_next_core(hurt: Hurt) -> None:
    path, body = KINDS["seeded"]
    expected = CLIENT.post(hurt.url + path, json=body, timeout=60).json()["choices"]
    hurt.signal_core()
    found = CLIENT.post(hurt.url + path, json=body, timeout=60)
    assert found.status_code == 200 and found.json()["choices"] == expected


def test_health_ready_metrics_and_incidents(hurt: Hurt) -> None:
    hurt.until_ready()
    restarts = hurt.restarts()
    pid = hurt.signal_core()
    seen = {}
    deadline = time.monotonic() + 20
    while hurt.restarts() == restarts and time.monotonic() < deadline:
        for path in ("/health", "/ready", "/ping"):
            reply = CLIENT.get(hurt.url + path)
            if reply.status_code == 503:
                seen[path] = reply
    assert seen.keys() == {"/health", "/ready", "/ping"}
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in seen.values())
    assert "started again" in seen["/ready"].json()["error"]["message"]
    hurt.until_ready()
    assert hurt.restarts() == restarts + 1
    last = hurt.incidents()[-1]
    assert (last["cause"], last["signal"], last["core_pid"]) == ("killed", "SIGKILL", pid)
    assert last["model"] == "kvasir-demo" and last["requests_unfinished"] == 0


def test_incidents_hold_no_text(hurt: Hurt) -> None:
    secret = "Xyzzy the secret of the prompt"

    def ask() -> None:
        body = {"prompt": secret, "max_tokens": 300, "ignore_eos": True, "stream": True}
        with httpx.stream("POST", hurt.url + "/v1/completions", json=body, timeout=60) as response:
            for i, _ in enumerate(response.iter_lines()):
                if i == 20:
                    hurt.signal_core()

    ask()
    files = sorted(hurt.incident_dir.glob("incident-*.json"))
    text = files[-1].read_text()
    assert hurt.incidents()[-1]["requests_in_flight"] == 1
    assert "Xyzzy" not in text and secret.encode().hex() not in text and len(text) < 4000
    assert len(files) <= 32


def test_a_full_disk_costs_no_stream(hurt: Hurt, undisturbed: dict[str, Answer]) -> None:
    unfinished = hurt.incident_dir / f".incident-{hurt.server.pid}.tmp"
    unfinished.symlink_to("/dev/full")
    try:
        before = len(hurt.incidents())
        disturbed = run_all(hurt, ["plain"], lambda progress: progress.wait_for(30) and hurt.signal_core())
        disturbed["plain"].assert_same(undisturbed["plain"])
        assert len(hurt.incidents()) == before
        assert CLIENT.get(hurt.url + "/health").status_code == 200
    finally:
        unfinished.unlink()


def test_64_streams_dropped_at_random(hurt: Hurt, undisturbed: dict[str, Answer]) -> None:
    """Clients that leave at any moment, one core that dies among them: every block is free afterwards."""
    rng = random.Random(64)

    def drop(after: int, body: dict) -> None:
        try:
            with httpx.stream("POST", hurt.url + "/v1/completions", json=body, timeout=60) as response:
                for i, _ in enumerate(response.iter_lines()):
                    if i >= after:
                        return
        except httpx.TransportError:
            return

    bodies = [
        {"prompt": [rng.randrange(20, 200)] * rng.randrange(1, 400), "max_tokens": 300, "ignore_eos": True}
        | {"stream": True, "n": rng.choice((1, 1, 2)), "seed": i}
        for i in range(64)
    ]
    threads = [threading.Thread(target=drop, args=(rng.randrange(60), body)) for body in bodies]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    hurt.signal_core()
    for thread in threads:
        thread.join()
    hurt.until_ready()
    hurt.assert_all_free()
    hurt.stream("plain").assert_same(undisturbed["plain"])


def test_without_restarts_the_first_death_ends_the_server(tmp_path: Path) -> None:
    with hurt_server(tmp_path, "--max-core-restarts", "0") as hurt:
        hurt.signal_core()
        assert hurt.server.wait(20) == 1
        assert [i["cause"] for i in hurt.incidents()] == ["killed"]


def test_a_front_that_is_killed_takes_its_core_along(tmp_path: Path) -> None:
    with hurt_server(tmp_path) as hurt:
        pid = hurt.core_pid()
        assert pid is not None
        hurt.server.kill()
        hurt.server.wait()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}").exists():
            assert time.monotonic() < deadline, "the core outlives its front"
            time.sleep(0.05)


def test_a_stopped_core_is_replaced(tmp_path: Path, undisturbed: dict[str, Answer]) -> None:
    with hurt_server(tmp_path, "--engine-iteration-timeout", "2") as hurt:
        kinds = ["plain", "n3", "logprobs"]
        disturbed = run_all(hurt, kinds, lambda p: p.wait_for(200) and hurt.signal_core(signal.SIGSTOP))
        for kind, answer in disturbed.items():
            answer.assert_same(undisturbed[kind])
        assert hurt.restarts("stopped") == hurt.restarts() == 1
        (incident,) = hurt.incidents()
        assert incident["cause"] == "stopped" and incident["suspects"] == 0 and incident["silent_s"] < 10
        os.kill(hurt.server.pid, 0)
