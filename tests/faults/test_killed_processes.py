"""A server of two API processes over two supervised cores, and any of its processes killed or stopped."""

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

FLAGS = ("--api-server-count", "2", "--data-parallel-size", "2")
CORE, FRONT = b"kvasir.assembly.core", b"kvasir.entrypoints.http.api_process"


def pids(hurt: Hurt, module: bytes) -> list[int]:
    """The server's child processes that run `module`; of cores also those on standby."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split() if entry.name.isdigit() else None
            if (
                stat
                and int(stat[1]) == hurt.server.pid
                and stat[0] != "Z"
                and module in (entry / "cmdline").read_bytes()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def until(count: int, hurt: Hurt, module: bytes) -> None:
    deadline = time.monotonic() + 30
    while len(pids(hurt, module)) != count:
        assert time.monotonic() < deadline, f"there are {len(pids(hurt, module))} of {module!r}, not {count}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hurt]:
    folder = tmp_path_factory.mktemp("incidents")
    with hurt_server(folder, *FLAGS, "--standby-core", "--max-core-restarts", "100000") as server:
        until(4, server, CORE)  # two at work and two on standby
        yield server


@pytest.fixture(scope="module")
def undisturbed(hurt: Hurt) -> dict[str, Answer]:
    return run_all(hurt, list(KINDS))


def test_each_core_has_a_successor_on_standby(hurt: Hurt, undisturbed: dict[str, Answer]) -> None:
    """Both cores die at the same time; those on standby take over, and there are new ones on standby."""
    at_work, standby = pids(hurt, CORE)[:2], pids(hurt, CORE)[2:]
    before = hurt.restarts()

    def kill(progress: Progress) -> None:
        assert progress.wait_for(150)
        for pid in at_work:
            os.kill(pid, signal.SIGKILL)

    for kind, answer in run_all(hurt, list(KINDS), kill).items():
        answer.assert_same(undisturbed[kind])
    until(4, hurt, CORE)
    assert set(standby) < set(pids(hurt, CORE)) and hurt.restarts() == before + 2
    hurt.assert_all_free()


@pytest.mark.parametrize("rounds", [3, pytest.param(40, marks=(pytest.mark.slow, pytest.mark.timeout(900)))])
def test_streams_go_on_whichever_core_is_killed(hurt: Hurt, undisturbed: dict[str, Answer], rounds: int) -> None:
    rng = random.Random(rounds)
    before, kills = hurt.restarts("killed"), 0

    def kill(progress: Progress) -> None:
        nonlocal kills
        for moment in sorted(rng.sample(range(500), 2)):
            if progress.wait_for(moment):
                os.kill(rng.choice(pids(hurt, CORE)), signal.SIGKILL)
                kills += 1

    for _ in range(rounds):
        for kind, answer in run_all(hurt, list(KINDS), kill).items():
            answer.assert_same(undisturbed[kind])
        hurt.until_ready()
    assert kills >= rounds, "streams were over before they could be hurt"
    assert before < hurt.restarts("killed") <= before + kills
    hurt.assert_all_free()


def test_a_killed_front_is_replaced_while_a_core_starts_again(hurt: Hurt, undisturbed: dict[str, Answer]) -> None:
    """Streams end whole or broken off, never wrong; those that break off are those of the dead process."""
    found: list[Answer | None] = [None] * 8
    chunks: list[int] = []

    def run(i: int) -> None:
        try:
            found[i] = hurt.stream("plain", lambda: chunks.append(i))
        except httpx.TransportError:
            pass

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    while len(set(chunks)) < len(found):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim, other = pids(hurt, FRONT)
    os.kill(pids(hurt, CORE)[0], signal.SIGKILL)
    os.kill(victim, signal.SIGKILL)
    for thread in threads:
        thread.join()
    whole = [answer for answer in found if answer is not None]
    for answer in whole:
        answer.assert_same(undisturbed["plain"])
    until(2, hurt, FRONT)
    assert other in pids(hurt, FRONT) and victim not in pids(hurt, FRONT)
    deadline = time.monotonic() + 30
    while not all(_answers(hurt) for _ in range(8)):
        assert time.monotonic() < deadline, "the new process does not answer"
    hurt.stream("plain").assert_same(undisturbed["plain"])
    hurt.assert_all_free()


def _answers(hurt: Hurt) -> bool:
    try:
        return httpx.get(hurt.url + "/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def test_a_stopped_core_is_found_by_its_own_heartbeat(tmp_path: Path, undisturbed: dict[str, Answer]) -> None:
    with hurt_server(tmp_path, *FLAGS, "--engine-iteration-timeout", "2") as hurt:
        victim = pids(hurt, CORE)[1]
        kinds = ["plain", "n3", "logprobs", "seeded", "stop", "min_tokens"]
        disturbed = run_all(hurt, kinds, lambda p: p.wait_for(200) and os.kill(victim, signal.SIGSTOP))
        for kind, answer in disturbed.items():
            answer.assert_same(undisturbed[kind])
        assert hurt.restarts("stopped") == hurt.restarts() == 1
        (incident,) = hurt.incidents()
        assert incident["cause"] == "stopped" and incident["core_pid"] == victim and incident["core"] in (0, 1)
        assert CLIENT.get(hurt.url + "/health").status_code == 200


def test_a_head_that_is_killed_takes_everything_along(tmp_path: Path) -> None:
    with hurt_server(tmp_path, *FLAGS) as hurt:
        children = [*pids(hurt, CORE), *pids(hurt, FRONT)]
        assert len(children) == 4
        hurt.server.kill()
        hurt.server.wait()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}").exists() for pid in children):
            assert time.monotonic() < deadline, "a process outlives the head"
            time.sleep(0.05)
