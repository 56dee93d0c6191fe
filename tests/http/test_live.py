"""`kvasir serve` as a process, on a real engine with a tiny random checkpoint."""

import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from tests.fixtures import checkpoint
from tests.http import sse
from tests.http.live import CLIENT

ROOT = Path(__file__).resolve().parents[2]
ASK = {"messages": [{"role": "user", "content": "Hello there, how are you?"}], "temperature": 0}


@contextmanager
def process(
    *flags: str,
    model: str | None = None,
    module: str = "kvasir",
    env: dict[str, str] | None = None,
    log_to: str | None = None,
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Without a model a tiny one; with an empty name none, for flags that name several. `log_to`: a file that need
    not be readable.
    """
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        module,
        "serve",
        *([str(checkpoint("qwen3"))] if model is None else [model] if model else []),
        "--port",
        str(port),
        "--dtype",
        "float32",
    ]
    command += [] if model is not None else ["--kv-cache-memory", "8MiB", "--served-model-name", "tiny"]
    command += flags
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
    with tempfile.TemporaryFile() if log_to is None else open(log_to, "wb") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=ROOT)
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    if CLIENT.get(url + "/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
                if server.poll() is not None:
                    log.seek(0)
                    raise AssertionError(log.read().decode())
            yield url, server
        finally:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with process() as (url, _):
        yield url


def metric(url: str, name: str) -> float:
    lines = CLIENT.get(url + "/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"kvasir:{name}{{"))


def test_stream_is_the_whole(url: str) -> None:
    for path, body, chat in (
        ("/v1/chat/completions", {**ASK, "max_tokens": 8, "logprobs": True, "top_logprobs": 2}, True),
        ("/v1/completions", {"prompt": ["Hello", "Once"], "max_tokens": 8, "logprobs": 1, "temperature": 0}, False),
        ("/v1/completions", {"prompt": "Hello", "max_tokens": 8, "n": 3, "seed": 7, "stop": ["e"]}, False),
    ):
        whole = CLIENT.post(url + path, json=body, timeout=60).json()
        streamed = CLIENT.post(
            url + path, json={**body, "stream": True, "stream_options": {"include_usage": True}}, timeout=60
        )
        got, wanted = sse.collect(sse.events(streamed), chat=chat, usage=True), sse.plain(whole, chat=chat)
        for side in (got, wanted):  # the second run finds the first one's prompt in the cache
            del side["usage"]["prompt_tokens_details"]
        assert [c["text"] for c in got["choices"]] == [c["text"] for c in wanted["choices"]]
        assert [c["finish_reason"] for c in got["choices"]] == [c["finish_reason"] for c in wanted["choices"]]
        assert got["usage"] == wanted["usage"]


def test_stop_strings_anywhere_in_the_text(url: str) -> None:
    """A random model writes odd bytes; wherever a stop string lies, stream and whole end before its first place."""
    body = {"prompt": "Hello", "max_tokens": 48, "seed": 5, "ignore_eos": True}
    full = CLIENT.post(url + "/v1/completions", json=body).json()["choices"][0]["text"]
    rng = random.Random(0)
    for _ in range(12):
        at = rng.randrange(len(full) - 4)
        stop = full[at : at + rng.randint(1, 4)]
        asked = {**body, "stop": [stop]}
        whole = CLIENT.post(url + "/v1/completions", json=asked).json()
        streamed = sse.events(CLIENT.post(url + "/v1/completions", json={**asked, "stream": True}))
        got = sse.collect(streamed, chat=False, usage=False)["choices"][0]
        assert got["text"] == whole["choices"][0]["text"] == full[: full.find(stop)], (full, stop)
        assert (got["finish_reason"], got["stop_reason"]) == ("stop", stop)


def test_openai_client(url: str) -> None:
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    answer = client.chat.completions.create(model="tiny", max_tokens=8, **ASK)  # type: ignore[call-overload]
    assert answer.usage.completion_tokens <= 8 and answer.choices[0].finish_reason in ("stop", "length")
    pieces = client.chat.completions.create(model="tiny", max_tokens=8, stream=True, **ASK)  # type: ignore[call-overload]
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == answer.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="2048"):
        client.completions.create(model="tiny", prompt=[5] * 3000)
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="tiny", prompt=[10**6])


def test_prefix_hits_are_in_the_usage(url: str) -> None:
    body = {"prompt": list(range(20, 120)), "max_tokens": 2, "cache_salt": "test-prefix"}
    counts = [
        CLIENT.post(url + "/v1/completions", json=body).json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        for _ in range(2)
    ]
    assert counts == [0, 96]


def test_echo_scores_the_prompt(url: str) -> None:
    body = {"prompt": [20, 21, 22], "max_tokens": 0, "echo": True, "logprobs": 1}
    logprobs = CLIENT.post(url + "/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"][0] is None
    assert all(lp < 0 for lp in logprobs["token_logprobs"][1:]) and len(logprobs["tokens"]) == 3


@pytest.mark.parametrize("stream", [True, False])
def test_hang_up_frees_the_blocks(url: str, stream: bool) -> None:
    before = metric(url, "requests_hung_up_total")
    with pytest.raises(httpx.ReadTimeout), httpx.Client(timeout=0.7) as client:
        body = {"prompt": "Hello", "max_tokens": 1500, "ignore_eos": True, "stream": stream}
        with client.stream("POST", url + "/v1/completions", json=body) as response:
            for _ in response.iter_bytes():
                time.sleep(0.3)
                raise httpx.ReadTimeout("we hang up")
    for _ in range(100):
        if metric(url, "num_requests_running") == 0 and CLIENT.get(url + "/load").json()["server_load"] == 0:
            break
        time.sleep(0.1)
    assert metric(url, "num_requests_running") == 0
    assert metric(url, "kv_cache_usage_perc") == 0
    assert metric(url, "requests_hung_up_total") == before + 1


def test_sigterm_drains() -> None:
    with process("--shutdown-timeout", "20") as (url, server):
        result: list[httpx.Response] = []

        def post() -> None:
            body = {"prompt": "Hello", "max_tokens": 60, "ignore_eos": True, "stream": True}
            result.append(CLIENT.post(url + "/v1/completions", json=body, timeout=60))

        thread = threading.Thread(target=post)
        thread.start()
        while CLIENT.get(url + "/load").json()["server_load"] == 0:
            time.sleep(0.01)
        server.send_signal(signal.SIGTERM)
        refused = None
        while refused is None or refused.status_code == 200:
            try:
                refused = CLIENT.post(url + "/v1/completions", json={"prompt": "x", "max_tokens": 1})
            except httpx.TransportError:  # the stream was quicker than this test
                break
        assert refused is None or refused.status_code == 503
        thread.join()
        whole = sse.collect(sse.events(result[0]), chat=False, usage=False)
        assert whole["choices"][0]["finish_reason"] == "length"
        assert server.wait(20) == 0
