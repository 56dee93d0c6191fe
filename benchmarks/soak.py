"""A server under mixed load whose engine core is killed again and again: is every request answered, and rightly?

    python benchmarks/soak.py                      # an hour, a kill -9 every minute
    python benchmarks/soak.py --duration 600       # ten minutes

Every request of the load is asked once before the first kill; from then on its answer (text, tool calls, finish reason,
number of tokens) must be the same, whatever happens meanwhile. The model is the bundled one in float32, where that is
promised. Some clients leave in the middle on purpose.

Prints a JSON object and writes it to benchmarks/results/cpu/soak.json (--output).
"""

import argparse
import asyncio
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def workload() -> list[tuple[str, dict]]:
    """(route, body) of every request: chats, completions, seeds, n, logprobs, stop strings, tools; streamed and whole."""

    def chat(text: str, **more) -> tuple[str, dict]:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 300}
        return "/v1/chat/completions", {**body, **more}

    def completion(prompt, seed: int, **more) -> tuple[str, dict]:
        return "/v1/completions", {"prompt": prompt, "temperature": 0.9, "seed": seed, "max_tokens": 120, **more}

    asked = [chat(f"Count down from {n} to 1.") for n in (20, 35, 50, 60)]
    asked += [chat(f"What is {a} + {b}?") for a, b in ((17, 25), (123, 456), (905, 90), (8, 9))]
    asked += [chat("Count down from 60 to 1.", stop=[f" {n},"]) for n in (41, 7)]
    asked += [chat("What is the weather in Rome?", tools=[TOOL])]
    asked += [completion("A list of names", seed, ignore_eos=True) for seed in range(4)]
    asked += [completion([20 + i, 30, 40] * 30, 7 + i, n=3, ignore_eos=True) for i in range(2)]
    asked += [completion("def main", 5, logprobs=2, repetition_penalty=1.2, ignore_eos=True)]
    asked += [completion("x", 6, min_tokens=80), completion([50] * 700, 8, ignore_eos=True, max_tokens=40)]
    return [(route, {**body, "stream": stream}) for route, body in asked for stream in (True, False)]


@dataclass
class Tally:
    sent: int = 0
    right: int = 0
    left: int = 0  # by their clients, on purpose
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)


def signature(answers: dict[int, list], tokens: int | None) -> str:
    return json.dumps([answers[i] for i in sorted(answers)] + [tokens])


async def ask(client: httpx.AsyncClient, route: str, body: dict, leave_after: int | None = None) -> str | None:
    """The answer in a form that can be compared; None when the client left after so many chunks."""
    answers: dict[int, list] = {}  # choice -> [text, tool calls, finish reason]
    if not body["stream"]:
        reply = await client.post(route, json=body)
        reply.raise_for_status()
        whole = reply.json()
        for c in whole["choices"]:
            message = c.get("message") or {"content": c["text"]}
            calls = [[t["function"]["name"], t["function"]["arguments"]] for t in message.get("tool_calls") or ()]
            answers[c["index"]] = [message["content"] or "", calls, c["finish_reason"]]
        return signature(answers, whole["usage"]["completion_tokens"])
    tokens, done, chunks = None, False, 0
    body = {**body, "stream_options": {"include_usage": True}}
    async with client.stream("POST", route, json=body) as reply:
        if reply.status_code != 200:
            raise RuntimeError(f"status {reply.status_code}: {(await reply.aread())[:200]!r}")
        async for line in reply.aiter_lines():
            if line == "data: [DONE]":
                done = True
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            if "error" in chunk:
                raise RuntimeError(str(chunk["error"])[:200])
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
            chunks += 1
            if leave_after is not None and chunks >= leave_after:
                return None
            for c in chunk["choices"]:
                answer = answers.setdefault(c["index"], ["", [], None])
                delta = c.get("delta") or {"content": c.get("text")}
                answer[0] += delta.get("content") or ""
                for piece in delta.get("tool_calls") or ():
                    while len(answer[1]) <= piece["index"]:
                        answer[1].append(["", ""])
                    answer[1][piece["index"]][0] += piece["function"].get("name") or ""
                    answer[1][piece["index"]][1] += piece["function"].get("arguments") or ""
                answer[2] = c["finish_reason"] or answer[2]
    if not done:
        raise RuntimeError("the stream broke off")
    return signature(answers, tokens)


async def user(number: int, client: httpx.AsyncClient, right: dict[int, str], tally: Tally, end: float, args) -> None:
    rng = random.Random(number)
    asked = workload()
    while time.monotonic() < end:
        which = rng.randrange(len(asked))
        route, body = asked[which]
        leave = rng.randrange(1, 40) if body["stream"] and rng.random() < args.leave else None
        tally.sent += 1
        start = time.monotonic()
        try:
            answer = await ask(client, route, body, leave)
        except Exception as error:
            tally.failed.append(f"{route} {which}: {type(error).__name__}: {error}"[:300])
        else:
            if answer is None:
                tally.left += 1
            elif answer == right[which]:
                tally.right += 1
                tally.latencies_s.append(time.monotonic() - start)
            else:
                tally.wrong.append(f"{route} {which}: {answer[:150]} instead of {right[which][:150]}")
        await asyncio.sleep(rng.uniform(0, 2 * args.pause))


def core_pid(server_pid: int) -> int | None:
    for entry in Path("/proc").iterdir():
        try:
            stat = (entry / "stat").read_text().rsplit(")", 1)[1].split() if entry.name.isdigit() else None
            if stat and int(stat[1]) == server_pid and stat[0] != "Z":
                if b"kvasir.assembly.core" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
        except OSError:
            continue
    return None


async def killer(client: httpx.AsyncClient, server_pid: int, end: float, args, recoveries: list[float]) -> None:
    rng = random.Random(1)
    while True:
        await asyncio.sleep(args.kill_every * rng.uniform(0.8, 1.2))
        if time.monotonic() > end - args.kill_every / 4:
            return
        pid = core_pid(server_pid)
        if pid is None:
            continue
        os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        while core_pid(server_pid) in (pid, None) or (await client.get("/ready")).status_code != 200:
            await asyncio.sleep(0.01)
        recoveries.append(time.monotonic() - start)


def resident_kib(pid: int | None) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    except (OSError, StopIteration):
        return 0


async def memory(server_pid: int, end: float, samples: list[tuple[float, int, int]]) -> None:
    while time.monotonic() < end:
        samples.append((time.monotonic(), resident_kib(server_pid), resident_kib(core_pid(server_pid))))
        await asyncio.sleep(2.0)


def slope_kib_per_hour(samples: list[tuple[float, int, int]], skip: float) -> float:
    """Of the front, after the first `skip` of the time: caches fill at first. A core lives for a minute only."""
    kept = samples[int(len(samples) * skip) :]
    if len(kept) < 3:
        return 0.0
    return statistics.linear_regression([t for t, _, _ in kept], [float(f) for _, f, _ in kept]).slope * 3600


def quantile(values: list[float], q: float) -> float | None:
    return round(sorted(values)[min(len(values) - 1, int(q * len(values)))], 3) if values else None


async def metric(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"kvasir:{name}{{"))


async def soak(url: str, server_pid: int, args) -> dict:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, trust_env=False) as client:
        asked = workload()
        right: dict[int, str] = {}
        for which, (route, body) in enumerate(asked):
            answer = await ask(client, route, body)
            assert answer is not None
            right[which] = answer
        for a, b in zip(list(right)[::2], list(right)[1::2]):
            assert right[a] == right[b], f"streamed and whole differ: {right[a]} {right[b]}"
        tally, recoveries, samples = Tally(), [], []
        start = time.monotonic()
        end = start + args.duration
        users = [user(i, client, right, tally, end, args) for i in range(args.users)]
        await asyncio.gather(
            *users, killer(client, server_pid, end, args, recoveries), memory(server_pid, end, samples)
        )
        seconds = time.monotonic() - start
        deadline = time.monotonic() + 10
        while await metric(client, "kv_cache_usage_perc") and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        third = max(1, len(samples) // 3)
        return {
            "seconds": round(seconds, 1),
            "users": args.users,
            "requests_sent": tally.sent,
            "requests_answered_right": tally.right,
            "requests_left_by_their_client": tally.left,
            "requests_wrong": len(tally.wrong),
            "requests_failed": len(tally.failed),
            "all_accounted_for": tally.sent == tally.right + tally.left and not tally.wrong and not tally.failed,
            "examples_of_wrong_or_failed": (tally.wrong + tally.failed)[:5],
            "kills": len(recoveries),
            "restarts_counted_by_the_server": await metric(client, "engine_restarts_total"),
            "recovery_s": {"p50": quantile(recoveries, 0.5), "p99": quantile(recoveries, 0.99), "n": len(recoveries)},
            "latency_s": {"p50": quantile(tally.latencies_s, 0.5), "p99": quantile(tally.latencies_s, 0.99)},
            "kv_cache_usage_at_the_end": await metric(client, "kv_cache_usage_perc"),
            "front_resident_mib": {
                "first_third_mean": round(statistics.mean(f for _, f, _ in samples[:third]) / 1024, 2),
                "last_third_mean": round(statistics.mean(f for _, f, _ in samples[-third:]) / 1024, 2),
                "slope_kib_per_hour_after_the_first_fifth": round(slope_kib_per_hour(samples, 0.2), 1),
            },
            "core_resident_mib_max": round(max(c for _, _, c in samples) / 1024, 1),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", type=float, default=3600.0, help="seconds (default: an hour)")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds between kills of the core")
    parser.add_argument("--users", type=int, default=4, help="clients that ask one request after the other")
    parser.add_argument("--pause", type=float, default=0.5, help="mean seconds between a client's requests")
    parser.add_argument("--leave", type=float, default=0.05, help="share of streams whose client leaves in the middle")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "cpu" / "soak.json")
    parser.add_argument("serve", nargs="*", help="further flags for `kvasir serve`, after --")
    args = parser.parse_args()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "kvasir", "serve", "--dtype", "float32", "--port", str(port)]
        command += ["--max-core-restarts", "1000000", "--incident-dir", folder, "--disable-access-log", *args.serve]
        log = Path(folder) / "server.log"
        with log.open("wb") as out:
            server = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=out)
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    if httpx.get(url + "/ready", trust_env=False).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
                if server.poll() is not None:
                    print(log.read_text(), file=sys.stderr)
                    return 1
            result = asyncio.run(soak(url, server.pid, args))
            server.send_signal(signal.SIGTERM)
            result["exit_code_after_sigterm"] = server.wait(60)
        finally:
            server.kill()
    result["command"] = "python benchmarks/soak.py " + " ".join(sys.argv[1:])
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    result["date"] = time.strftime("%Y-%m-%d")
    text = json.dumps(result, indent=2)
    print(text)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(text + "\n")
    return 0 if result["all_accounted_for"] and result["exit_code_after_sigterm"] == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
