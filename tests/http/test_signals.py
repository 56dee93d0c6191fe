"""What a process manager sees: SIGTERM, a second one, an engine that dies."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.http import sse
from tests.http.live import CLIENT

ROOT = Path(__file__).resolve().parents[2]
BODY = {"prompt": "x", "max_tokens": 150, "stream": True}


class Process:
    def __init__(self, popen: "subprocess.Popen[str]"):
        self.popen = popen
        assert popen.stdout is not None
        self.url = f"http://127.0.0.1:{int(popen.stdout.readline())}"
        self.replies: list[httpx.Response | Exception] = []

    def start_stream(self) -> threading.Thread:
        def post() -> None:
            try:
                self.replies.append(CLIENT.post(self.url + "/v1/completions", json=BODY, timeout=20))
            except httpx.TransportError as e:
                self.replies.append(e)

        thread = threading.Thread(target=post)
        thread.start()
        while CLIENT.get(self.url + "/load").json()["server_load"] == 0:
            time.sleep(0.01)
        time.sleep(0.2)
        return thread


@contextmanager
def server(shutdown_timeout: float, *flags: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "tests.http.fake_server", str(shutdown_timeout), *flags]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


def test_sigterm_lets_streams_finish() -> None:
    with server(20) as process:
        thread = process.start_stream()
        process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        refused = CLIENT.post(process.url + "/v1/completions", json=BODY)
        assert refused.status_code == 503 and refused.json()["error"]["type"] == "server_draining"
        assert CLIENT.get(process.url + "/health").status_code == 503
        thread.join()
        assert isinstance(process.replies[0], httpx.Response)
        whole = sse.collect(sse.events(process.replies[0]), chat=False, usage=False)
        assert whole["choices"][0]["text"] == "x" * 100
        assert process.popen.wait(5) == 0


def test_the_timeout_ends_streams_with_a_sentence() -> None:
    with server(0.2) as process:
        thread = process.start_stream()
        process.popen.send_signal(signal.SIGINT)
        thread.join()
        assert isinstance(process.replies[0], httpx.Response)
        error = sse.events(process.replies[0])[-1]["error"]
        assert error["type"] == "server_draining" and "send the request again" in error["message"]
        assert process.popen.wait(5) == 0


def test_a_second_signal_is_quick() -> None:
    with server(60) as process:
        thread = process.start_stream()
        process.popen.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        start = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(5) == 0
        assert time.monotonic() - start < 1.2, "the stream had two seconds to go"
        thread.join()


def test_sighup_reads_the_keys_again_and_costs_no_stream(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    keys = {"ann": "the-key-of-ann-0001", "bob": "the-key-of-bob-0002"}

    def status(name: str, url: str) -> int:
        return CLIENT.get(url + "/v1/models", headers={"authorization": f"Bearer {keys[name]}"}).status_code

    def write(name: str) -> None:
        path.write_text(f"keys: [{{name: {name}, key: {keys[name]}}}]")

    write("ann")
    with server(60, "--api-keys-file", str(path)) as process:
        headers = {"authorization": f"Bearer {keys['ann']}"}
        with CLIENT.stream("POST", process.url + "/v1/completions", json=BODY, headers=headers, timeout=20) as stream:
            chunks = stream.iter_bytes()
            text = next(chunks)
            write("bob")
            process.popen.send_signal(signal.SIGHUP)
            deadline = time.monotonic() + 5
            while status("ann", process.url) != 401:
                assert time.monotonic() < deadline, "the keys were not read again"
                time.sleep(0.02)
            assert status("bob", process.url) == 200
            path.write_text("keys: [")
            process.popen.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            assert status("bob", process.url) == 200, "a broken file changes nothing"
            text += b"".join(chunks)
        assert text.endswith(b"data: [DONE]\n\n") and b"error" not in text


def test_a_dead_engine_ends_the_server_with_a_code() -> None:
    """Process managers restart what fails, and leave alone what ends well."""
    with server(60) as process:
        assert CLIENT.get(process.url + "/health").status_code == 200
        assert process.popen.stdin is not None
        process.popen.stdin.write("die\n")
        process.popen.stdin.flush()
        assert process.popen.wait(5) == 1
