"""CPU seconds of the server's process per million streamed tokens, and how many tokens a second it carries.

    python -m benchmarks.frontend.run [--streams 1024] [--tokens 512] [--rate 50000] [--chat] [--logprobs 5] ...
                                      [--pin 0,1] [--profile FILE] [-- flags of kvasir serve]

The stub core says one token a tick for each stream; `--rate 0` lets it run as fast as it can. With `--pin A,B` the
server has core A for itself; client and stub share B. The row says:

    cpu_s_per_m     CPU seconds of the server's process per million tokens, from the first token on
    cpu_us_per_event  the same for each event: less of merging, which hides the cost of a slow front
    tokens_per_s    tokens over the time from the first byte of an answer to the last
    admit_ms        CPU milliseconds to take in one request, up to its first token (streams that wait for one another)
    tokens_per_event, tokens_per_read    how much was merged, by the server and on the way to the client
"""

import argparse
import json
import os
import platform
import resource
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks.frontend.core import TEXT
from kvasir.tokenizer import get_tokenizer

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "kvasir" / "assets" / "kvasir-demo"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=1, help="requests of each stream, one after the other")
    parser.add_argument("--rate", type=float, default=50_000, help="tokens a second of the stub; 0: no bound")
    parser.add_argument("--prompt-words", type=int, default=8)
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--logprobs", type=int)
    parser.add_argument("--body", default="{}", help="JSON, put into each request")
    parser.add_argument("--keep", type=int, default=8, help="streams that are read in full and checked")
    parser.add_argument("--pin", help="A,B: the server on core A, client and stub on core B")
    parser.add_argument("--profile", help="py-spy writes here (speedscope; .txt: raw stacks)")
    parser.add_argument("--label", default="")
    parser.add_argument("flags", nargs="*", help="flags of kvasir serve, after --")
    return parser.parse_args()


def request_body(args: argparse.Namespace) -> bytes:
    body = {"model": "m", "stream": True, "max_tokens": args.tokens, "ignore_eos": True, **json.loads(args.body)}
    words = "word " * args.prompt_words
    if args.chat:
        body["messages"] = [{"role": "user", "content": words}]
        if args.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": args.logprobs}
    else:
        body["prompt"] = words
        if args.logprobs is not None:
            body["logprobs"] = args.logprobs
    return json.dumps(body).encode()


def pinned(core: str | None, command: list[str]) -> list[str]:
    return command if core is None else ["taskset", "-c", core, *command]


def start_server(args: argparse.Namespace, port: int, core: str | None) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "TICK_S": str(args.streams / args.rate if args.rate else 0),
        "WAIT_FOR": str(args.streams),
    }
    flags = ["--port", str(port), "--served-model-name", "m", "--disable-access-log", "--max-num-seqs", "4096"]
    command = [sys.executable, "-m", "benchmarks.frontend.server", str(DEMO), *flags, *args.flags]
    server = subprocess.Popen(pinned(core, command), env=environment, cwd=ROOT)
    for _ in range(300):
        time.sleep(0.1)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
            return server
        except OSError:
            if server.poll() is not None:
                break
    raise SystemExit("the server did not start")


def children(pid: int) -> dict[int, str]:
    """Its child processes, with their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(errors="replace").rsplit(")", 1)[1].split()
                if int(stat[1]) == pid:
                    found[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
            except OSError:
                pass
    return found


def front_processes(pid: int) -> list[int]:
    """The processes that answer HTTP: the server's, or those that it has started for that."""
    return [pid, *(child for child, command in children(pid).items() if "api_process" in command)]


def pin_cores(pid: int, core: str) -> None:
    for child, command in children(pid).items():
        if "benchmarks.frontend.core" in command:
            subprocess.run(["taskset", "-acp", core, str(child)], check=True, stdout=subprocess.DEVNULL)


def expected_text(num_tokens: int) -> str:
    tokenizer = get_tokenizer(str(DEMO))
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    return tokenizer.decode((ids * (num_tokens // len(ids) + 1))[:num_tokens], skip_special_tokens=True)


def measure(args: argparse.Namespace) -> dict[str, object]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server_core, other_core = args.pin.split(",") if args.pin else (None, None)
    server = start_server(args, port, server_core)
    profiler = None
    try:
        if other_core is not None:
            pin_cores(server.pid, other_core)
        if args.profile:
            kind = "raw" if args.profile.endswith(".txt") else "speedscope"
            profiler = subprocess.Popen(
                ["py-spy", "record", "-p", str(server.pid), "-o", args.profile, "-f", kind, "-r", "500", "-n"]
            )
            time.sleep(1.0)
        pids = front_processes(server.pid)
        command = [sys.executable, "-m", "benchmarks.frontend.client", str(port), ",".join(map(str, pids))]
        command += [str(args.streams), str(args.rounds), str(args.keep)]
        client = subprocess.run(
            pinned(other_core, command), input=request_body(args), stdout=subprocess.PIPE, cwd=ROOT, check=True
        )
        if profiler is not None:
            profiler.send_signal(2)
            profiler.wait(60)
    finally:
        server.terminate()
        server.wait(30)
    return json.loads(client.stdout)


def main() -> None:
    args = arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    seen = measure(args)
    expected = expected_text(args.tokens)
    for text in seen["texts"]:  # type: ignore[attr-defined]
        assert text.startswith(expected[:-8]) and len(text) >= len(expected) - 8, (text[-80:], expected[-80:])
    tokens = args.streams * args.tokens * args.rounds
    row = {
        "label": args.label,
        "streams": args.streams,
        "tokens": args.tokens,
        "rounds": args.rounds,
        "rate": args.rate,
        "kind": "chat" if args.chat else "completion",
        "logprobs": args.logprobs,
        "cpu_s_per_m": round(seen["stream_cpu_s"] / tokens * 1e6, 2),
        "cpu_us_per_event": round(seen["stream_cpu_s"] / seen["events"] * 1e6, 2),
        "tokens_per_s": round(tokens / seen["stream_s"]),
        "admit_ms": round(seen["admission_cpu_s"] / args.streams * 1e3, 3),
        "tokens_per_event": round(tokens / seen["events"], 2),
        "tokens_per_read": round(tokens / seen["reads"], 2),
        "bytes_per_token": round(seen["bytes"] / tokens),
        "gap_p50_ms": seen["gap_p50_ms"],
        "gap_p99_ms": seen["gap_p99_ms"],
        "load_before": os.getloadavg()[0],
        "cpu": next((line.split(": ")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), ""),
        "python": platform.python_version(),
        "commit": subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip(),
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
