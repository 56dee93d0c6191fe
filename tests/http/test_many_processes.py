"""`kvasir serve` with several API processes over several engine cores: one server to its clients, whatever dies."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kvasir.config import ServerArgs
from kvasir.entrypoints.http.guard.middleware import ADMIN_PATHS, TRACE_PATHS
from kvasir.entrypoints.http.head import _only_what_can_be_shared
from kvasir.entrypoints.http.listener import bind_many, close
from kvasir.entrypoints.http.peers import SharedFigures
from kvasir.errors import ConfigError
from kvasir.messages import SchedulerStats
from kvasir.observability import Metrics
from tests.http import sse
from tests.http.closed import assert_closed, listening_sockets
from tests.http.live import CLIENT
from tests.http.test_live import metric, process

BODY = {"prompt": "Hello", "max_tokens": 40, "ignore_eos": True, "temperature": 0}
FLAGS = ("--api-server-count", "2", "--data-parallel-size", "2", "--max-core-restarts", "5")


def children(pid: int, module: str) -> list[int]:
    """Child processes that run `module`, oldest first."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(stat[1]) == pid and module.encode() in command and stat[0] != "Z":
                found.append(int(entry.name))
    return sorted(found)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with process(*FLAGS) as (url, running):
        yield url, running


def wait_until(what: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never became true"
        time.sleep(0.05)


def is_healthy(url: str) -> bool:
    """Of every process: a new connection comes to any of them."""
    try:
        return all(httpx.get(url + "/health", timeout=5).status_code == 200 for _ in range(8))
    except httpx.TransportError:
        return False


def streams(url: str, count: int, body: dict[str, Any], meanwhile: Any = lambda: None) -> list[str | None]:
    """The texts of streams on connections of their own; None where one broke."""
    found: list[str | None] = [None] * count
    begun = [threading.Event() for _ in range(count)]

    def run(i: int) -> None:
        try:
            with (
                httpx.Client(timeout=60) as client,
                client.stream("POST", url + "/v1/completions", json={**body, "stream": True}) as response,
            ):
                parts = []
                for part in response.iter_bytes():
                    parts.append(part)
                    begun[i].set()
                whole = httpx.Response(200, headers=response.headers, content=b"".join(parts))
                found[i] = sse.collect(sse.events(whole), chat=False, usage=False)["choices"][0]["text"]
        except httpx.TransportError:
            pass

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for event in begun:
        assert event.wait(60)
    meanwhile()
    for thread in threads:
        thread.join()
    return found


def test_all_processes_answer_as_one(server: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, running = server
    assert len(children(running.pid, "api_process")) == 2 and len(children(running.pid, "assembly.core")) == 2
    before = metric(url, "generation_tokens_total")
    whole = CLIENT.post(url + "/v1/completions", json=BODY, timeout=60).json()["choices"][0]["text"]
    assert streams(url, 12, BODY) == [whole] * 12
    time.sleep(2.2)  # reports of the other process
    seen = [metric(url, "generation_tokens_total") - before for _ in range(6)]
    assert seen == [13 * 40] * 6, "whichever process is asked"
    text = CLIENT.get(url + "/metrics").text
    assert all(f'kvasir:num_requests_running{{engine="{i}"' in text for i in range(2))
    state = CLIENT.get(url + "/v1/engine/state").json()
    assert state["core"]["num_used_blocks"] == 0 and state["totals"]["generation_tokens"] == before + 13 * 40


def test_a_killed_api_process_is_replaced_and_the_others_go_on(server: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, running = server
    time.sleep(1.2)
    before = metric(url, "generation_tokens_total")
    body = {**BODY, "max_tokens": 1500}
    whole = CLIENT.post(url + "/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    victim, other = children(running.pid, "api_process")
    found = streams(url, 12, body, lambda: os.kill(victim, signal.SIGKILL))
    assert None in found and whole in found and set(found) == {None, whole}
    wait_until(lambda: len(set(children(running.pid, "api_process")) - {victim, other}) == 1)
    wait_until(lambda: is_healthy(url))
    wait_until(lambda: CLIENT.get(url + "/v1/engine/state").json()["core"]["num_running"] == 0)
    assert streams(url, 8, BODY) == [whole[: len(streams(url, 1, BODY)[0] or "")]] * 8
    assert metric(url, "generation_tokens_total") > before, "no counter goes back"


def test_a_killed_core_costs_no_stream(server: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, running = server
    body = {**BODY, "max_tokens": 1500}
    whole = CLIENT.post(url + "/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    victim = children(running.pid, "assembly.core")[0]
    assert streams(url, 8, body, lambda: os.kill(victim, signal.SIGKILL)) == [whole] * 8
    wait_until(lambda: len(children(running.pid, "assembly.core")) == 2)
    assert victim not in children(running.pid, "assembly.core")
    wait_until(lambda: metric(url, "engine_restarts_total") == 1)


def test_a_hang_up_frees_the_blocks(server: tuple[str, subprocess.Popen[bytes]]) -> None:
    url, _ = server
    with httpx.Client(timeout=20) as client:
        body = {**BODY, "max_tokens": 1500, "stream": True}
        with client.stream("POST", url + "/v1/completions", json=body) as response:
            next(response.iter_bytes())
    wait_until(lambda: CLIENT.get(url + "/v1/engine/state").json()["core"]["num_running"] == 0)


def test_sigterm_drains_every_process() -> None:
    with process("--api-server-count", "2", "--shutdown-timeout", "30") as (url, running):
        body = {**BODY, "max_tokens": 60}
        whole = CLIENT.post(url + "/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
        found = streams(url, 6, body, lambda: running.send_signal(signal.SIGTERM))
        assert found == [whole] * 6
        assert running.wait(30) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "/health")


def test_while_one_drains_nobody_waits_for_the_other() -> None:
    """The process without streams is gone at once; new connections must not wait where it listened."""
    with process("--api-server-count", "2", "--shutdown-timeout", "60") as (url, running):
        body = {**BODY, "max_tokens": 200}
        whole = CLIENT.post(url + "/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
        (core,) = children(running.pid, "assembly.core")
        seen: list[int] = []

        def stop_and_ask() -> None:
            os.kill(core, signal.SIGSTOP)  # so that the stream lasts
            running.send_signal(signal.SIGTERM)
            wait_until(lambda: len(children(running.pid, "api_process")) == 1)
            time.sleep(0.2)
            seen.extend(httpx.get(url + "/health", timeout=5).status_code for _ in range(12))
            os.kill(core, signal.SIGCONT)

        assert streams(url, 1, body, stop_and_ask) == [whole]
        assert seen == [503] * 12
        assert running.wait(30) == 0


def test_nobody_comes_in_without_the_key_by_any_process() -> None:
    key = "the-key-of-all-processes"
    with process("--api-server-count", "2", env={"KVASIR_API_KEY": key}) as (url, running):
        fronts = children(running.pid, "api_process")
        sockets = listening_sockets(running.pid)
        assert {(kind, port) for _, kind, port in sockets} == {("tcp", int(url.rpartition(":")[2]))}, sockets
        assert {pid for pid, _, _ in sockets} <= {running.pid, *fronts}, "no core listens"
        headers = {"authorization": f"Bearer {key}"}
        paths = {*httpx.get(url + "/openapi.json", headers=headers).json()["paths"], *ADMIN_PATHS, *TRACE_PATHS}
        assert len(paths) > 30
        for _ in range(4):  # a new connection comes to any process
            with httpx.Client() as client:
                assert_closed(client, url, paths)
        body = {"prompt": "Hello", "max_tokens": 2}
        for _ in range(8):
            assert httpx.post(url + "/v1/completions", json=body, headers=headers, timeout=30).status_code == 200
            assert httpx.post(url + "/log_level?level=DEBUG", headers=headers).status_code == 404, "no admin key"


def test_what_one_process_must_know_of_the_others_is_refused() -> None:
    refused = {
        "admin_api_key": ["x"],
        "api_keys_file": "/x",
        "usage_db": "/x",
        "batch_dir": "/x",
        "model_dir": "/x",
        "models_config": "/x",
    }
    for option, value in refused.items():
        args = ServerArgs(api_server_count=2, **{option: value})
        flag = "--" + option.replace("_", "-")
        with pytest.raises(ConfigError, match=f"{flag} does not go together with --api-server-count 2: .*count 1"):
            _only_what_can_be_shared(args)
    shared = _only_what_can_be_shared(ServerArgs(api_server_count=2, api_key=["k"]))
    assert (shared.responses_store_bytes, shared.api_key) == (0, ["k"])


def test_a_taken_port_is_found_at_once() -> None:
    places = bind_many("127.0.0.1", 0, None, 3)
    port = places[0].getsockname()[1]
    assert [place.getsockname()[1] for place in places] == [port] * 3
    for place in places:
        place.listen()
    for count in (1, 2):
        with pytest.raises(ConfigError, match="cannot listen"):
            bind_many("127.0.0.1", port, None, count)
    with socket.create_connection(("127.0.0.1", port)):
        pass
    for place in places:
        close(place)


def test_figures_of_a_front_that_ended_stay_in_the_sums() -> None:
    hub, fronts = Metrics("m", num_cores=2), [Metrics("m", num_cores=2) for _ in range(2)]
    shared = SharedFigures(hub)
    report = shared.calls()["report_figures"]
    hub.on_scheduler_stats(SchedulerStats(num_running=3, prefix_hits=5), 1)
    for i, front in enumerate(fronts):
        front.on_prompt(10, 0, 1)
        front.on_later_tokens(7, 0.7)
        report(i, {"dump": front.dump()})
    assert hub.line.generation_tokens == 14

    def shown(asker: Metrics, index: int) -> dict[str, float]:
        lines = asker.render(shared.calls()["figures"](index, {})).decode().splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    label = '{engine="0",model_name="m"}'
    assert shown(fronts[0], 0)["kvasir:generation_tokens_total" + label] == 14
    assert shown(fronts[0], 0)["kvasir:inter_token_latency_seconds_count" + label] == 14
    assert shown(fronts[1], 1)['kvasir:num_requests_running{engine="1",model_name="m"}'] == 3
    assert shown(fronts[1], 1)['kvasir:prefix_cache_hits_total{engine="1",model_name="m"}'] == 5
    shared.forget(0)
    again = Metrics("m", num_cores=2)
    assert shown(again, 0)["kvasir:generation_tokens_total" + label] == 14
    again.on_later_tokens(1, 0.1)
    report(0, {"dump": again.dump()})
    assert shown(fronts[1], 1)["kvasir:generation_tokens_total" + label] == 15
