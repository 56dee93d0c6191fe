"""Starts `kvasir serve`, asks it over HTTP, and stops it: `python examples/serve_and_ask.py`.

With the official client the question is two lines; here the standard library does, so that nothing else is needed.
"""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

START_TIMEOUT_S = 120


def main() -> int:
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "kvasir", "serve", "--port", str(port)])
    base = f"http://127.0.0.1:{port}"
    try:
        seconds = wait_until_healthy(base, server)
        print(f"The server was healthy {seconds:.1f} s after its start.")
        reply = ask(base, "What is 250 - 75?")
        print(f"What is 250 - 75?\n  {reply['choices'][0]['message']['content'].strip()}")
    finally:
        server.send_signal(signal.SIGTERM)  # lets running requests finish
        code = server.wait(timeout=60)
    print(f"The server stopped with exit code {code}.")
    return code


def ask(base: str, question: str) -> dict:
    body = {"model": "kvasir-demo", "messages": [{"role": "user", "content": question}], "temperature": 0}
    request = urllib.request.Request(
        f"{base}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def wait_until_healthy(base: str, server: subprocess.Popen) -> float:
    started = time.monotonic()
    while (seconds := time.monotonic() - started) < START_TIMEOUT_S:
        if server.poll() is not None:
            raise SystemExit(f"The server ended with exit code {server.returncode}; its messages are above.")
        try:
            urllib.request.urlopen(f"{base}/health", timeout=1).close()
            return seconds
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit(f"The server was not healthy after {START_TIMEOUT_S} s.")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
