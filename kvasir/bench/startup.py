"""`kvasir bench startup`: from the command to a healthy server and to the first token, in fresh processes."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from kvasir.bench.stats import summary
from kvasir.errors import ConfigError, EngineDeadError

_POLL_S = 0.01


def startup(serve_args: Sequence[str], *, iterations: int, timeout_s: float, cold: bool = False) -> dict[str, Any]:
    """The first run may find cold caches of files and kernels; it is reported on its own.

    Args:
        cold: the first run finds no cache of ours; the others find what it left.
    """
    if iterations < 1:
        raise ConfigError(f"--num-iters must be at least 1, got {iterations}.")
    healthy, first_token = [], []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, **({"KVASIR_CACHE_DIR": folder} if cold else {})}
        for _ in range(iterations):
            a, b = _one(serve_args, timeout_s, environment)
            healthy.append(a)
            first_token.append(b)
    return {
        "iterations": iterations,
        "cold": cold,
        "runs": [{"healthy_s": a, "first_token_s": b} for a, b in zip(healthy, first_token, strict=True)],
        "first_run": {"healthy_s": healthy[0], "first_token_s": first_token[0]},
        "healthy_s": summary(healthy, (0.0, 50.0, 100.0)),
        "first_token_s": summary(first_token, (0.0, 50.0, 100.0)),
    }


def _one(serve_args: Sequence[str], timeout_s: float, environment: dict[str, str]) -> tuple[float, float]:
    port = _free_port()
    command = [sys.executable, "-m", "kvasir.entrypoints.cli.main", "serve", *serve_args]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with tempfile.TemporaryFile() as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            while not _answers(port, "GET", "/health"):
                if process.poll() is not None:
                    log.seek(0)
                    tail = log.read()[-2000:].decode("utf-8", errors="replace")
                    raise EngineDeadError(f"the server ended with exit code {process.returncode}:\n{tail}")
                if time.perf_counter() - start > timeout_s:
                    raise EngineDeadError(f"the server was not healthy within {timeout_s:g} s.")
                time.sleep(_POLL_S)
            healthy = time.perf_counter() - start
            body = {"prompt": [1, 2, 3], "max_tokens": 1}
            if not _answers(port, "POST", "/v1/completions", body, timeout_s):
                raise EngineDeadError("the server is healthy, but does not answer /v1/completions.")
            return healthy, time.perf_counter() - start
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(port: int, method: str, path: str, body: Any = None, timeout_s: float = 5.0) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
