"""Hang-ups, drains, keys, health: what happens around the answers."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kvasir.entrypoints.http import reply
from kvasir.entrypoints.http.guard.middleware import OPEN_PATHS
from kvasir.entrypoints.http.protocol import BoundedHttpProtocol
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import EngineRestartingError
from tests.http import sse
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import CLIENT, LiveServer, serving

ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100}


def until(condition: Callable[[], bool], seconds: float = 3.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "several"),
    [("/v1/chat/completions", False), ("/v1/completions", False), ("/v1/completions", True)],
)
def test_hang_up_closes_the_generator(server: LiveServer, path: str, stream: bool, several: bool) -> None:
    server.engine.script = Script(text="x" * 90, delay_s=0.05)
    body = ASK if "chat" in path else {"prompt": ["a", "b", "c"] if several else "a", "max_tokens": 100}
    content = httpx.Request("POST", "http://h" + path, json={**body, "stream": stream})
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        head = f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {len(content.content)}\r\n\r\n"
        sock.sendall(head.encode() + content.content)
        until(lambda: len(server.engine.seen) == (3 if several else 1))
        if stream:
            assert b"200 OK" in sock.recv(4096)
        else:
            time.sleep(0.1)
    until(lambda: server.engine.running == 0, 1.0)
    assert all(s.closed_early and s.tokens < 60 for s in server.engine.seen)
    until(lambda: CLIENT.get(server.url + "/load").json() == {"server_load": 0})


def test_hang_up_before_the_first_token(server: LiveServer) -> None:
    server.engine.script = Script(delay_s=30)
    with pytest.raises(httpx.ReadTimeout):
        CLIENT.post(server.url + "/v1/chat/completions", json={**ASK, "stream": True}, timeout=0.2)
    until(lambda: len(server.engine.seen) == 1 and server.engine.seen[0].ended)


def test_headers_do_not_wait_for_ever() -> None:
    with serving(FakeEngine(Script(delay_s=0.4, text="")), ServerSettings(headers_wait_s=0.1)) as live:
        start = time.monotonic()
        with httpx.stream("POST", live.url + "/v1/chat/completions", json={**ASK, "stream": True}) as response:
            assert time.monotonic() - start < 0.35
            sse.collect(sse.events(response), chat=True, usage=False)
            assert response.text.startswith(": waiting\n\n"), "proxies see that it lives"
        for api, body in (("responses", {"input": "Hi"}), ("messages", ASK)):
            text = CLIENT.post(f"{live.url}/v1/{api}", json={**body, "stream": True}).text
            assert text.startswith(": waiting\n\nevent: "), api


@pytest.mark.parametrize("protocol", [BoundedHttpProtocol, HttpToolsProtocol])
def test_a_stream_that_falls_silent_shows_that_it_lives(protocol: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle, and while all that is written is a thought which is not shown; not while tokens come."""
    monkeypatch.setattr(reply, "KEEP_ALIVE_S", 0.15)
    settings = ServerSettings(reasoning_parser="qwen3")
    with serving(FakeEngine(), settings, protocol) as live:

        def comments(text: str, delay_s: float, **more: Any) -> int:
            live.engine.script = Script(text=text, delay_s=delay_s)
            body = {**ASK, "stream": True, "include_reasoning": False, **more}
            answer = CLIENT.post(live.url + "/v1/chat/completions", json=body)
            whole = sse.collect(sse.events(answer), chat=True, usage=False)
            assert whole["choices"][0]["text"] == text.rpartition("</think>")[2]
            return answer.text.count(": waiting\n\n")

        assert comments("ab", 0.5) >= 3
        assert comments("<think>" + "a" * 60 + "</think>b", 0.01) >= 2
        assert comments("a" * 60, 0.01) == 0


def test_a_slow_reader_holds_nothing_up(server: LiveServer) -> None:
    """A client that does not read: the engine's generator is simply not asked, and others are served."""
    server.engine.script = Script(text="x" * 90)
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        body = httpx.Request("POST", "http://h/", json={**ASK, "stream": True}).content
        sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
        )
        assert CLIENT.post(server.url + "/v1/chat/completions", json=ASK).status_code == 200


def test_draining() -> None:
    engine = FakeEngine(Script(text="x" * 40, delay_s=0.02))
    with serving(engine) as live:
        result: list[httpx.Response] = []
        post = lambda: result.append(CLIENT.post(live.url + "/v1/chat/completions", json={**ASK, "stream": True}))
        thread = threading.Thread(target=post)
        thread.start()
        until(lambda: engine.running == 1)
        live.on_loop(lambda: setattr(live.app.state.inflight, "draining", True))
        refused = CLIENT.post(live.url + "/v1/chat/completions", json=ASK)
        assert refused.status_code == 503 and "shutting down" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert CLIENT.get(live.url + "/health").status_code == CLIENT.get(live.url + "/ready").status_code == 503
        thread.join()
        whole = sse.collect(sse.events(result[0]), chat=True, usage=False)
        assert whole["choices"][0]["text"] == "x" * 40, "what was accepted is finished"


def test_abort_at_the_end_of_a_drain() -> None:
    engine = FakeEngine(Script(text="x" * 40, delay_s=0.05))
    with serving(engine) as live:
        result: dict[bool, httpx.Response] = {}

        def post(stream: bool) -> None:
            result[stream] = CLIENT.post(live.url + "/v1/chat/completions", json={**ASK, "stream": stream})

        threads = [threading.Thread(target=post, args=(s,)) for s in (True, False)]
        for t in threads:
            t.start()
        until(lambda: engine.running == 2 and all(s.tokens > 1 for s in engine.seen))
        assert live.on_loop(live.app.state.inflight.abort_all) == 2
        for t in threads:
            t.join()
        assert sse.events(result[True])[-1]["error"]["type"] == "server_draining"
        assert result[False].status_code == 503
        assert engine.running == 0


def test_every_route_but_health_needs_a_key() -> None:
    with serving(FakeEngine(), ServerSettings(api_keys=("one", "two"))) as live:
        paths = [r.path.replace("{name:path}", "fake") for r in live.app.routes]
        for path in [*paths, "/nothing/here"]:
            for header in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "one"},
                {"authorization": "Basic one"},
            ):
                status = CLIENT.get(live.url + path, headers=header).status_code
                assert status == (200 if path in OPEN_PATHS else 401), path
        for key in ("one", "two"):
            ok = CLIENT.get(live.url + "/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert ok.status_code == 200
        error = CLIENT.get(live.url + "/v1/models").json()["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")


def test_health_follows_the_engine(server: LiveServer) -> None:
    for path in ("/health", "/ping", "/ready"):
        assert CLIENT.get(server.url + path).status_code == 200
    server.engine.is_alive, server.engine.dead_error = False, "gone"
    for path in ("/health", "/ping", "/ready"):
        assert CLIENT.get(server.url + path).status_code == 503


def test_ready_is_more_than_healthy(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a culprit is looked for the engine lives, and new requests had better go elsewhere."""

    async def busy() -> None:
        raise EngineRestartingError("it looks for a culprit")

    monkeypatch.setattr(server.engine, "check_ready", busy)
    assert CLIENT.get(server.url + "/health").status_code == 200
    reply = CLIENT.get(server.url + "/ready")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert CLIENT.post(server.url + "/v1/chat/completions", json=ASK).status_code == 200, "those that come still wait"


def test_tokens(server: LiveServer) -> None:
    post = lambda path, **body: CLIENT.post(server.url + path, json=body).json()
    assert post("/tokenize", prompt="ab") == {
        "count": 3, "max_model_len": 256, "tokens": [256, 97, 98], "token_strs": None,
    }  # fmt: skip
    assert post("/tokenize", prompt="ab", add_special_tokens=False, return_token_strs=True)["token_strs"] == ["a", "b"]
    chat = post("/tokenize", messages=ASK["messages"])
    assert bytes(chat["tokens"]) == b"<user>Hi\n<assistant>"
    assert post("/detokenize", tokens=chat["tokens"]) == {"prompt": "<user>Hi\n<assistant>"}
    rendered = post("/v1/chat/completions/render", **ASK)
    assert rendered["prompt"] == "<user>Hi\n<assistant>" and rendered["sampling_params"]["max_tokens"] == 100
    assert bytes(rendered["token_ids"]) == b"<user>Hi\n<assistant>"
    completions = post("/v1/completions/render", prompt=["a", "b"], max_tokens=3, priority=2)
    assert [c["token_ids"] for c in completions] == [[256, 97], [256, 98]]
    assert completions[0]["prompt"] == "a" and completions[0]["sampling_params"]["max_tokens"] == 3
    assert completions[0]["priority"] == 2 and not server.engine.seen


def test_openapi_and_version(server: LiveServer) -> None:
    schema = CLIENT.get(server.url + "/openapi.json").json()
    chat = schema["components"]["schemas"]["ChatCompletionRequest"]
    assert "messages" in chat["required"] and "temperature" in chat["properties"]
    assert set(schema["paths"]) >= {"/v1/chat/completions", "/v1/completions", "/tokenize"}
    assert CLIENT.get(server.url + "/version").json()["version"]


def test_cors() -> None:
    with serving(FakeEngine(), ServerSettings(allowed_origins=("https://a.example",))) as live:
        ok = CLIENT.get(live.url + "/v1/models", headers={"Origin": "https://a.example"})
        assert ok.headers["access-control-allow-origin"] == "https://a.example"
        other = CLIENT.get(live.url + "/v1/models", headers={"Origin": "https://b.example"})
        assert "access-control-allow-origin" not in other.headers


def test_metrics(server: LiveServer) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    def sample(name: str, **labels: str) -> float:
        text = CLIENT.get(server.url + "/metrics").text
        for family in text_string_to_metric_families(text):
            for s in family.samples:
                if s.name == name and labels.items() <= s.labels.items():
                    return s.value
        raise AssertionError(f"{name} is not in\n{text}")

    before = sample("kvasir:generation_tokens_total"), sample("kvasir:request_success_total", finished_reason="length")
    CLIENT.post(server.url + "/v1/completions", json={"prompt": "abc", "max_tokens": 5, "n": 2})
    assert sample("kvasir:generation_tokens_total") == before[0] + 10
    assert sample("kvasir:request_success_total", finished_reason="length") == before[1] + 2
    assert sample("kvasir:request_generation_tokens_bucket", le="+Inf") == sample(
        "kvasir:request_generation_tokens_count"
    )
    assert sample("kvasir:time_to_first_token_seconds_count") >= 2
