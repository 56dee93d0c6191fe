"""Streams past ASGI's `send`: slow clients, servers without that way, and chunks from a kept envelope."""

import json
import socket
import time
from typing import Any

import pytest
import uvicorn.protocols.http.httptools_impl as stock
from hypothesis import given, settings
from hypothesis import strategies as st

from kvasir.entrypoints.http.chunks import ChoicesFormat, StreamFormat
from kvasir.entrypoints.http.deltas import Delta, Usage
from kvasir.entrypoints.http.render import ChatShape, CompletionShape
from tests.http import sse
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import CLIENT, serving

LONG = "Blåbærsyltetøy 🙂 " * 1_000
COMPLETION = {"model": "fake", "prompt": "Hi", "max_tokens": 40_000, "stream": True}


def read_all(sock: socket.socket) -> bytes:
    """The body of a chunked answer."""
    raw = b""
    while not raw.endswith(b"\r\n0\r\n\r\n"):
        data = sock.recv(1 << 20)
        assert data, "the server closed the connection"
        raw += data
    chunked, body = raw.partition(b"\r\n\r\n")[2], b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        body += chunked[: int(size, 16)]
        assert chunked[int(size, 16) :][:2] == b"\r\n"
        chunked = chunked[int(size, 16) + 2 :]
    return body


def texts(body: bytes) -> list[str]:
    lines = [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]
    assert lines[-1] == b"[DONE]" and lines.count(b"[DONE]") == 1
    return [json.loads(line)["choices"][0]["text"] for line in lines[:-1]]


@pytest.mark.parametrize("protocol", ["ours", "stock"])
def test_a_client_that_does_not_read_gets_fewer_and_longer_chunks(protocol: str) -> None:
    """What it does not read waits where it was made: not in the connection, and not in a queue of chunks."""
    engine = FakeEngine(Script(text=LONG, per_step=4), max_model_len=1 << 20)
    more = {} if protocol == "ours" else {"protocol": stock.HttpToolsProtocol}
    with serving(engine, send_buffer=8192, **more) as live, socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", live.port))
        body = json.dumps(COMPLETION).encode()
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        deadline = time.monotonic() + 60
        while not (engine.seen and engine.seen[0].ended):
            assert time.monotonic() < deadline, "the engine waits for the client"
            time.sleep(0.01)
        assert len(CLIENT.get(live.url + "/health").content) == 0, "others are served meanwhile"
        found = texts(read_all(sock))
        assert "".join(found) == LONG
        steps = len(LONG.encode()) // 4
        assert len(found) < steps / 2 and max(map(len, found)) > 100


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_server_without_direct_writes_gives_the_same_stream(path: str) -> None:
    body: dict[str, Any] = {"n": 2, "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 30}
    chat = "chat" in path
    body |= {"messages": [{"role": "user", "content": "Hi"}]} if chat else {"prompt": ["a", "b"]}
    found = []
    for more in ({}, {"protocol": stock.HttpToolsProtocol}):
        with serving(FakeEngine(), **more) as live:
            found.append(sse.collect(sse.events(CLIENT.post(live.url + path, json=body)), chat=chat, usage=True))
    assert found[0] == found[1]


def test_answers_to_head_and_http_1_0_are_whole() -> None:
    with serving(FakeEngine()) as live:
        for version, connection in (("1.0", b"close"), ("1.1", b"close")):
            with socket.create_connection(("127.0.0.1", live.port)) as sock:
                body = json.dumps({**COMPLETION, "max_tokens": 40}).encode()
                head = f"POST /v1/completions HTTP/{version}\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
                sock.sendall(head.encode() + b"connection: " + connection + b"\r\n\r\n" + body)
                assert "".join(texts(read_all(sock))) == engine_text()
        assert CLIENT.head(live.url + "/v1/models").content == b""


def engine_text() -> str:
    return Script().text


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.lists(st.text(max_size=8), min_size=1, max_size=8),
    model=st.text(max_size=12) | st.just("the text"),
    role=st.text(min_size=1, max_size=5) | st.just("the text"),
    chat=st.booleans(),
    usage=st.booleans(),
    n=st.integers(1, 3),
)
def test_a_kept_envelope_is_the_usual_line(
    pieces: list[str], model: str, role: str, chat: bool, usage: bool, n: int
) -> None:
    shape = ChatShape(role, False) if chat else CompletionShape(False)
    asked = StreamFormat(usage, False)
    plain = ChoicesFormat(shape, "the text", model, n, Usage(), asked)
    usual = ChoicesFormat(shape, "the text", model, n, Usage(), asked)
    usual._envelopes = None
    for i, piece in enumerate(pieces):
        deltas = [Delta(index, piece, [5]) for index in range(n) if (i + index) % 2 == 0]
        assert plain.chunks(deltas) == usual.chunks([Delta(d.index, d.text, [5]) for d in deltas])
