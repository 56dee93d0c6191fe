"""The page docs/coming-from-vllm.md, followed literally: its programs and commands are run in their order."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures import checkpoint
from tests.http.live import CLIENT

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "coming-from-vllm.md"
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAME, PORT = "Qwen/Qwen3-0.6B", "8000"


class Follower:
    """Somebody who types what the page says."""

    def __init__(self, folder: Path):
        self.folder = folder
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = str(sock.getsockname()[1])
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        command = bin_folder / "kvasir"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m kvasir "$@"\n')
        command.chmod(0o755)
        self._env = {
            **os.environ,
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "KVASIR_CPU_KVCACHE_SPACE": "0.05",
        }
        self.server: subprocess.Popen[bytes] | None = None

    def follow(self, kind: str, text: str) -> str:
        text = text.replace(NAME, str(checkpoint("qwen3"))).replace(PORT, self.port)
        command = [sys.executable, "-c", text] if kind == "python" else ["bash", "-euc", text]
        if "kvasir serve" in text:
            self.stop()
            # With exec, the signal that stops it reaches the server and not only its shell.
            command[-1] = text.replace("kvasir serve", "exec kvasir serve")
            self.server = subprocess.Popen(command, cwd=self.folder, env=self._env, stderr=subprocess.PIPE)
            self._wait()
            return ""
        done = subprocess.run(command, cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def _wait(self) -> None:
        assert self.server is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if CLIENT.get(f"http://127.0.0.1:{self.port}/health").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
            if self.server.poll() is not None:
                break
        self.server.kill()
        assert self.server.stderr is not None
        raise AssertionError(self.server.stderr.read().decode())

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(30) == 0
            assert self.server.stderr is not None
            self.server.stderr.close()
            self.server = None


@pytest.fixture
def follower(tmp_path: Path) -> Iterator[Follower]:
    follower = Follower(tmp_path)
    yield follower
    if follower.server is not None:
        follower.server.kill()
        follower.server.wait()


@pytest.mark.timeout(300)
def test_the_page(follower: Follower) -> None:
    blocks = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    (program, asynchronous, serve, client, curl, from_file, batch) = blocks
    out = follower.follow(*program)
    assert out.count(" -> ") == 2 and "'Hello, my name is' -> " in out
    assert follower.follow(*asynchronous).strip()
    follower.follow(*serve)
    assert len(follower.follow(*client).splitlines()) >= 2
    listed, completed = follower.follow(*curl).replace("}{", "}\n{").splitlines()
    assert json.loads(listed)["data"][0]["id"] == "my-model"
    assert json.loads(completed)["usage"]["completion_tokens"] <= 7
    follower.follow(*from_file)
    assert CLIENT.get(f"http://127.0.0.1:{follower.port}/v1/models").json()["data"][0]["id"] == "my-model"
    follower.stop()
    assert "2 requests: 1 answered, 1 failed." in follower.follow(*batch)
    first, second = map(json.loads, (follower.folder / "results.jsonl").read_text().splitlines())
    assert first["response"]["status_code"] == 200
    assert second["response"]["status_code"] == 400 and "embeddings" in json.dumps(second)


def test_the_imports_of_the_table() -> None:
    import kvasir

    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `from vllm")]
    assert len(rows) >= 7
    for row in rows:
        left, right = row.strip("|").split("|")
        names = re.findall(r"from kvasir import ([\w, ]+)`", right)
        if not names:  # "the same names"
            names = re.findall(r"import ([\w, ]+)`", left)
        for name in names[0].split(", "):
            assert hasattr(kvasir, name), row
