"""Whatever is sent: no 5xx, no hang, a golden answer unchanged afterwards, memory flat, one socket that listens."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from kvasir.config.batch import BatchConfig
from kvasir.entrypoints.http.settings import ServerSettings
from tests.http.closed import family, listening_sockets
from tests.http.fake_engine import FakeEngine
from tests.http.hostile import ASK, Case, corpus
from tests.http.live import CLIENT, LiveServer, serving
from tests.http.test_live import process

MIB = 1 << 20
GOLDEN = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 12,
}


@pytest.fixture(scope="module")
def real() -> Iterator[tuple[str, int]]:
    """A real engine behind a real server; its address and process id."""
    with process(model="kvasir-demo") as (url, server):
        yield url, server.pid


def golden(url: str) -> str:
    return CLIENT.post(url + "/v1/chat/completions", json=GOLDEN, timeout=60).json()["choices"][0]["message"]["content"]


def send(client: httpx.Client, url: str, case: Case) -> httpx.Response | None:
    """None where the server hung up on something that is no HTTP."""
    headers = {k.encode(): v.encode("latin-1") for k, v in case.headers.items()}
    try:
        return client.request(case.method, url + case.path, content=case.content, headers=headers, timeout=20)
    except (httpx.RemoteProtocolError, httpx.LocalProtocolError, httpx.InvalidURL, httpx.ReadError, httpx.WriteError):
        return None


def resident(pid: int) -> int:
    """Bytes of the server and of its engine core."""
    pages = sum(int(Path(f"/proc/{p}/statm").read_text().split()[1]) for p in family(pid))
    return pages * os.sysconf("SC_PAGE_SIZE")


def storm(url: str, cases: list[Case]) -> list[str]:
    """What went wrong."""
    wrong = []
    with httpx.Client(verify=False, trust_env=False) as client:
        for case in cases:
            started = time.monotonic()
            try:
                response = send(client, url, case)
            except httpx.TimeoutException:
                wrong.append(f"{case.name}: hangs")
                continue
            if response is None:
                continue
            too_late = "timeout" in case.name and response.status_code in (503, 504)  # it asked for a nanosecond
            if response.status_code >= 500 and not too_late:
                wrong.append(f"{case.name}: {response.status_code} {response.text[:200]}")
            if response.status_code in (400, 401, 403, 404, 413, 429) and "application/json" in response.headers.get(
                "content-type", ""
            ):
                fields = {"message", "type"} if "/v1/messages" in case.path else {"message", "type", "param", "code"}
                if case.method != "HEAD" and set(response.json()["error"]) != fields:
                    wrong.append(f"{case.name}: {response.text[:200]}")
                if len(response.content) > 8192:
                    wrong.append(f"{case.name}: an error of {len(response.content)} bytes")
            if time.monotonic() - started > 10:
                wrong.append(f"{case.name}: took {time.monotonic() - started:.1f} s")
    return wrong


def test_the_corpus_has_every_kind_and_is_always_the_same() -> None:
    cases = corpus(210)
    kinds = {case.name.split()[0] for case in cases}
    assert {"number", "text", "broken", "path", "head", "costly"} <= kinds and len({c.content for c in cases}) > 120
    assert [c.name for c in cases] == [c.name for c in corpus(210)]


def test_two_hundred_hostile_requests(real: tuple[str, int]) -> None:
    url, pid = real
    before = golden(url)
    assert before
    assert storm(url, corpus(210)) == []
    assert golden(url) == before
    sizes = []
    for _ in range(6):  # the allocator keeps some, and gives some back: what counts is that it does not go on
        assert storm(url, corpus(210)) == []
        sizes.append(resident(pid))
    grown = max(sizes[3:]) - max(sizes[:3])
    assert grown < 24 * MIB, f"{grown / MIB:.1f} MiB more after the same again: {[s // MIB for s in sizes]}"
    load = CLIENT.get(url + "/load").json()
    assert load == {"server_load": 0}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_requests(real: tuple[str, int]) -> None:
    url, pid = real
    before = golden(url)
    sizes = []
    for seed in range(10):
        assert storm(url, corpus(1000, seed)) == []
        assert golden(url) == before
        sizes.append(resident(pid))
    print("resident MiB after each thousand:", [round(s / MIB, 1) for s in sizes])
    late = (max(sizes[6:]) - max(sizes[:6])) / MIB
    assert late < 24, f"{late:.1f} MiB more over the last 4000: {[s // MIB for s in sizes]}"


def test_only_the_http_port_listens(real: tuple[str, int]) -> None:
    """Sockets of all processes of the server that accept connections from anybody: one."""
    url, pid = real
    assert listening_sockets(pid) == [(pid, "tcp", int(url.rpartition(":")[2]))]
    assert len(family(pid)) >= 2, "the engine core was among those looked at"


# ---- from the schema


def requests_from_the_schema(server: LiveServer, max_examples: int, only: str = "") -> int:
    """Requests made by schemathesis for every operation of /openapi.json, valid ones and invalid ones.

    `only`: of paths that match this.
    """
    tried = 0
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json").include(path_regex=only or ".")
    for mode in GenerationMode:
        for operation in schema.get_all_operations():

            @settings(
                max_examples=max_examples, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
            )
            @given(case=operation.ok().as_strategy(generation_mode=mode))
            def run(case: schemathesis.Case) -> None:
                nonlocal tried
                tried += 1
                response = case.call(timeout=20)
                assert response.status_code < 500, (case.formatted_path, case.body, response.text)
                if response.status_code >= 400 and case.method != "HEAD":
                    assert "message" in response.json()["error"]

            try:
                run()
            except Unsatisfiable:  # nothing about it can be made invalid
                continue
    assert server.engine.running == 0
    return tried


def test_requests_made_from_the_schema(server: LiveServer) -> None:
    assert requests_from_the_schema(server, 15) > 100


def test_requests_made_from_the_schema_with_batches_on(tmp_path: Path) -> None:
    """The routes of files and batches do something only where there is a folder for them."""
    settings = ServerSettings(batches=BatchConfig(batch_dir=str(tmp_path), batch_max_storage=1 << 20))
    with serving(FakeEngine(), settings) as live:
        assert requests_from_the_schema(live, 5, only="/v1/(files|batches)") > 20
        assert CLIENT.post(live.url + "/v1/chat/completions", json={"messages": ASK}).status_code == 200


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_requests_made_from_the_schema(server: LiveServer) -> None:
    assert requests_from_the_schema(server, 1000) > 5_000


def test_a_golden_request_after_all_that(server: LiveServer) -> None:
    assert CLIENT.post(server.url + "/v1/chat/completions", json={"messages": ASK}).status_code == 200
