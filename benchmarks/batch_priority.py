"""What interactive requests notice of a batch: time to first token on an idle server, beside a batch, and beside the
same requests sent like any others.

    python benchmarks/batch_priority.py [--lines 5000] [--requests 40]

Starts a server of the bundled model for each case and measures it with `kvasir bench serve`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator

from openai import AsyncOpenAI, OpenAI

MAX_TOKENS = 128


@contextlib.contextmanager
def server(*flags: str) -> Iterator[str]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "kvasir", "serve", "--port", str(port), "--max-num-seqs", "64", *flags]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(url + "/health")
                    break
                time.sleep(0.1)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)


def measure(url: str, num_requests: int) -> dict:
    """Two requests a second, 64 tokens in and 32 out."""
    command = [sys.executable, "-m", "kvasir", "bench", "serve", "--base-url", url, "--request-rate", "2"]
    command += ["--num-prompts", str(num_requests), "--input-len", "64", "--output-len", "32", "--vocab", "300:1000"]
    done = subprocess.run([*command, "--json", "--no-progress"], capture_output=True, text=True, check=True)
    return {name: json.loads(done.stdout)[name] for name in ("ttft_ms", "tpot_ms", "failed")}


def prompts(count: int) -> list[list[int]]:
    return [[300 + (i * 7 + j) % 700 for j in range(64)] for i in range(count)]


def beside_a_batch(count: int, num_requests: int) -> dict:
    with tempfile.TemporaryDirectory() as folder, server("--batch-dir", folder) as url:
        client = OpenAI(base_url=url + "/v1", api_key="none")
        bodies = [{"prompt": p, "max_tokens": MAX_TOKENS, "ignore_eos": True} for p in prompts(count)]
        lines = [{"custom_id": str(i), "url": "/v1/completions", "body": body} for i, body in enumerate(bodies)]
        file = client.files.create(file="\n".join(map(json.dumps, lines)).encode(), purpose="batch")
        measure(url, 3)
        started = time.perf_counter()
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
        time.sleep(2)
        figures = measure(url, num_requests)
        while (batch := client.batches.retrieve(batch.id)).status != "completed":
            time.sleep(0.1)
        return {**figures, "load_s": round(time.perf_counter() - started, 1)}


def beside_requests(count: int, num_requests: int) -> dict:
    with server() as url:
        measure(url, 3)
        seconds: list[float] = []

        async def flood() -> None:
            client, places = AsyncOpenAI(base_url=url + "/v1", api_key="none", timeout=600), asyncio.Semaphore(256)

            async def one(prompt: list[int]) -> None:
                async with places:
                    extra = {"ignore_eos": True}
                    await client.completions.create(
                        model="kvasir-demo", prompt=prompt, max_tokens=MAX_TOKENS, extra_body=extra
                    )

            started = time.perf_counter()
            await asyncio.gather(*map(one, prompts(count)))
            seconds.append(time.perf_counter() - started)

        thread = threading.Thread(target=lambda: asyncio.run(flood()))
        thread.start()
        time.sleep(2)
        figures = measure(url, num_requests)
        thread.join()
        return {**figures, "load_s": round(seconds[0], 1)}


def idle(num_requests: int) -> dict:
    with server() as url:
        measure(url, 3)
        return measure(url, num_requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=5000)
    parser.add_argument("--requests", type=int, default=40)
    given = parser.parse_args()
    print(json.dumps({"case": "idle", **idle(given.requests)}), flush=True)
    print(json.dumps({"case": "beside a batch", **beside_a_batch(given.lines, given.requests)}), flush=True)
    print(json.dumps({"case": "beside requests", **beside_requests(given.lines, given.requests)}), flush=True)


if __name__ == "__main__":
    main()
