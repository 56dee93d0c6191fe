"""Stopping under fire, and clients that leave: on a real engine, for every route that generates."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.faults.harness import Answer, Hurt, hurt_server, metric, run_all
from tests.http.live import CLIENT

KINDS = ["plain", "n3", "seeded"]
LONG = 3000
"""Tokens of an answer that nobody waits for: several seconds."""
ASK = [{"role": "user", "content": "Count down from 60 to 1."}]
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "x", "max_tokens": LONG, "ignore_eos": True}),
    ("/v1/completions", {"prompt": ["x", "y"], "n": 2, "max_tokens": LONG, "ignore_eos": True}),
    ("/v1/chat/completions", {"messages": ASK, "max_tokens": LONG, "ignore_eos": True}),
    ("/v1/responses", {"input": "Count down from 60 to 1.", "max_output_tokens": LONG, "ignore_eos": True}),
    ("/v1/messages", {"model": "kvasir-demo", "messages": ASK, "max_tokens": LONG, "ignore_eos": True}),
]


@pytest.fixture(scope="module")
def hurt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hurt]:
    with hurt_server(tmp_path_factory.mktemp("incidents")) as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(hurt: Hurt) -> dict[str, Answer]:
    return run_all(hurt, KINDS)


def until(condition: Any, seconds: float = 10.0) -> float:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it never happened"
        time.sleep(0.01)
    return time.monotonic() - start


def test_every_route_that_generates_is_among_those_that_are_left(hurt: Hurt) -> None:
    """A new one has to be added to ROUTES, or named here with the reason why nobody can leave it."""
    others = {
        "/tokenize", "/detokenize", "/v1/chat/completions/render", "/v1/completions/render",  # no model is run
        "/v1/responses/input_tokens", "/v1/messages/count_tokens",
        "/v1/responses/{response_id}/cancel",
        "/v1/batches",  # answered at once; its lines run with nobody waiting
        "/v1/embeddings", "/pooling", "/classify", "/score", "/v1/score", "/rerank", "/v1/rerank", "/v2/rerank",
    }  # fmt: skip
    paths = CLIENT.get(hurt.url + "/openapi.json").json()["paths"]
    posts = {path for path, methods in paths.items() if "post" in methods}
    assert posts - others - {"/ping"} == {path for path, _ in ROUTES}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", range(len(ROUTES)))
def test_a_client_that_leaves_is_aborted_at_once(hurt: Hurt, route: int, stream: bool) -> None:
    path, body = ROUTES[route]
    request = httpx.Request("POST", hurt.url + path, json={**body, "stream": stream})
    head = f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n"
    head += f"content-length: {len(request.content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", httpx.URL(hurt.url).port or 0)) as sock:
        sock.sendall(head.encode() + request.content)
        until(lambda: metric(hurt.url, "num_requests_running") > 0)
        time.sleep(0.05)
    took = until(lambda: metric(hurt.url, "num_requests_running") == 0, 2.0)
    assert took < 1.0, "a step here takes a few milliseconds, and the figures are 0.1 s old at most"
    hurt.assert_all_free()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("by", ["header", "field"])
def test_a_request_ends_when_its_time_is_up(hurt: Hurt, by: str, stream: bool) -> None:
    """On every route; what it held is free at once, and its client is told."""
    for path, body in ROUTES:
        asked = {**body, "stream": stream} | ({"timeout": 0.4} if by == "field" else {})
        headers = {"x-request-timeout": "0.4"} if by == "header" else {}
        start = time.monotonic()
        reply = CLIENT.post(hurt.url + path, json=asked, headers=headers, timeout=30)
        took = time.monotonic() - start
        assert 0.35 < took < 1.5, (path, took)
        if stream:
            assert reply.status_code == 200 and "when its time was up (0.4 s)" in reply.text, (path, reply.text[-500:])
        else:
            assert reply.status_code == 504 and "when its time was up (0.4 s)" in reply.text, (path, reply.text)
        until(lambda: metric(hurt.url, "num_requests_running") == 0, 2.0)
    hurt.assert_all_free()


def test_sigterm_drains_though_the_core_is_killed_meanwhile(tmp_path: Path, undisturbed: dict[str, Answer]) -> None:
    refused: dict[str, httpx.Response] = {}
    with hurt_server(tmp_path, "--shutdown-timeout", "30") as hurt:

        def stop(progress: Any) -> None:
            assert progress.wait_for(30, of_all=True)  # who comes later is refused
            hurt.server.send_signal(signal.SIGTERM)
            hurt.signal_core()
            time.sleep(0.1)
            for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages"):
                body = next(body for p, body in ROUTES if p == path)
                refused[path] = CLIENT.post(hurt.url + path, json=body)
            refused["/ready"] = CLIENT.get(hurt.url + "/ready")
            refused["/health"] = CLIENT.get(hurt.url + "/health")

        for kind, answer in run_all(hurt, KINDS, stop).items():
            answer.assert_same(undisturbed[kind])
        assert hurt.server.wait(20) == 0
    assert {r.status_code for r in refused.values()} == {503}
    assert all(int(r.headers["retry-after"]) >= 1 for r in refused.values())


def test_a_signal_to_the_whole_group_drains_as_well(tmp_path: Path, undisturbed: dict[str, Answer]) -> None:
    """What a service manager does that signals every process of a service."""
    with hurt_server(tmp_path) as hurt:

        def stop(progress: Any) -> None:
            assert progress.wait_for(30, of_all=True)  # who comes later is refused
            hurt.signal_core(signal.SIGTERM)
            hurt.server.send_signal(signal.SIGTERM)

        for kind, answer in run_all(hurt, KINDS, stop).items():
            answer.assert_same(undisturbed[kind])
        assert hurt.server.wait(20) == 0
        assert not hurt.incidents()


def test_the_second_signal_is_fast_even_when_the_core_hangs(tmp_path: Path) -> None:
    with hurt_server(tmp_path) as hurt:
        pid = hurt.signal_core(signal.SIGSTOP)
        body = {"prompt": "x", "max_tokens": 50, "stream": True}

        def ask() -> None:
            try:
                CLIENT.post(hurt.url + "/v1/completions", json=body, timeout=60)
            except httpx.TransportError:
                return

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: CLIENT.get(hurt.url + "/load").json()["server_load"] == 1)
        start = time.monotonic()
        hurt.server.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        hurt.server.send_signal(signal.SIGTERM)
        assert hurt.server.wait(20) == 0
        assert time.monotonic() - start < 6
        thread.join()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
