"""`kvasir bench serve`: load on any OpenAI-compatible server, and what it makes of it."""

import asyncio
import random
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from kvasir.bench.client import Client, Target
from kvasir.bench.measure import Measured, measure
from kvasir.bench.stats import summary
from kvasir.bench.workload import Ask
from kvasir.errors import ConfigError

METRICS = (
    ("ttft", "time to first token"),
    ("tpot", "time per output token"),
    ("itl", "inter-token latency"),
    ("e2e", "end to end"),
)
_BUSY_CLIENT = 0.8


@dataclass(frozen=True)
class ServeLoad:
    """How requests are sent.

    Attributes:
        request_rate: mean per second; infinite sends all at once.
        burstiness: shape of the gamma distribution of the gaps; 1 is a Poisson process, more is more even.
        max_concurrency: requests in flight at most; None is no bound.
    """

    request_rate: float = float("inf")
    burstiness: float = 1.0
    max_concurrency: int | None = None
    num_warmups: int = 1
    timeout_s: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.request_rate > 0 or not self.burstiness > 0:
            raise ConfigError("--request-rate and --burstiness must be above 0.")
        if self.max_concurrency is not None and self.max_concurrency < 1:
            raise ConfigError(f"--max-concurrency must be at least 1, got {self.max_concurrency}.")


class ServeBench:
    """Sends a workload to a server."""

    def __init__(
        self, target: Target, model: str | None, load: ServeLoad, sampling: dict[str, Any], *, profile: bool = False
    ):
        self._profile = profile
        self._client = Client(target, load.timeout_s)
        self._model = model
        self._load = load
        self._sampling = sampling

    async def run(
        self, asks: Sequence[Ask], percentiles: Sequence[float] = (50.0, 99.0), progress: bool = True
    ) -> dict[str, Any]:
        """The report, as it goes into JSON. Times are in milliseconds."""
        if not asks:
            raise ConfigError("--num-prompts must be at least 1.")
        try:
            self._model = self._model or await self._first_model()
            for ask in asks[: self._load.num_warmups]:
                warm = await self._one(ask)
                if warm.error:
                    raise ConfigError(f"the server does not answer as it should: {warm.error}")
            if self._profile:
                await self._trace("/start_profile")
            found = await self._measured_run(asks, percentiles, progress)
            if self._profile:
                await self._trace("/stop_profile")
            return found
        finally:
            self._client.close()

    async def _measured_run(self, asks: Sequence[Ask], percentiles: Sequence[float], progress: bool) -> dict[str, Any]:
        from tqdm import tqdm

        places = asyncio.Semaphore(self._load.max_concurrency or len(asks))
        bar = tqdm(total=len(asks), unit="req", disable=not progress, file=sys.stderr)
        in_flight = peak = 0

        async def send(ask: Ask) -> Measured:
            nonlocal in_flight, peak
            async with places:
                in_flight += 1
                peak = max(peak, in_flight)
                try:
                    return await self._one(ask)
                finally:
                    in_flight -= 1
                    bar.update()

        cpu, start = _cpu_s(), time.perf_counter()
        tasks = []
        for ask, due in zip(asks, self._due_times(len(asks)), strict=True):
            wait = start + due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(send(ask)))
        results = await asyncio.gather(*tasks)
        duration = time.perf_counter() - start
        client_cpu = (_cpu_s() - cpu) / duration
        bar.close()
        return {**self._settings(len(asks)), **report(results, duration, percentiles), "peak_concurrency": peak,
                "client_cpu_share": client_cpu}  # fmt: skip

    async def _one(self, ask: Ask) -> Measured:
        path, body = self._body(ask)
        try:
            return measure(await self._client.ask("POST", path, body))
        except (OSError, TimeoutError, ValueError, msgspec.DecodeError) as e:
            return Measured(error=f"{type(e).__name__}: {e}" if str(e) else type(e).__name__)

    def _body(self, ask: Ask) -> tuple[str, dict[str, Any]]:
        body = {
            "model": self._model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": ask.output_len,
            **self._sampling,
        }
        if ask.question:
            return "/v1/chat/completions", {**body, "messages": [{"role": "user", "content": ask.question}]}
        return "/v1/completions", {**body, "prompt": ask.token_ids}

    async def _trace(self, path: str) -> None:
        reply = await self._client.ask("POST", path, {})
        if reply.status != 200:
            text = bytes(reply.body[:300]).decode("utf-8", errors="replace")
            raise ConfigError(f"{path} was answered with {reply.status}: {text} (was the server given --profile DIR?)")

    async def _first_model(self) -> str:
        try:
            reply = await self._client.ask("GET", "/v1/models")
            return str(msgspec.json.decode(bytes(reply.body))["data"][0]["id"])
        except (OSError, TimeoutError) as e:
            raise ConfigError(f"no server answers: {e}. Start one with `kvasir serve`, or give --base-url.") from None
        except (msgspec.DecodeError, KeyError, IndexError, TypeError, ValueError):
            raise ConfigError("the server's /v1/models names no model; give --model.") from None

    def _due_times(self, count: int) -> list[float]:
        rate, shape = self._load.request_rate, self._load.burstiness
        if rate == float("inf"):
            return [0.0] * count
        rng = random.Random(self._load.seed)
        due, times = 0.0, []
        for _ in range(count):
            times.append(due)
            due += rng.gammavariate(shape, 1.0 / (rate * shape))
        return times

    def _settings(self, count: int) -> dict[str, Any]:
        rate = self._load.request_rate
        return {
            "model": self._model,
            "num_prompts": count,
            "request_rate": rate if rate != float("inf") else "inf",
            "max_concurrency": self._load.max_concurrency,
        }


def report(results: Sequence[Measured], duration_s: float, percentiles: Sequence[float]) -> dict[str, Any]:
    good = [r for r in results if r.error is None]
    failures: dict[str, int] = {}
    for r in results:
        if r.error is not None:
            failures[r.error] = failures.get(r.error, 0) + 1
    prompt_tokens, output_tokens = sum(r.prompt_tokens for r in good), sum(r.output_tokens for r in good)
    samples = {
        "ttft": [r.ttft for r in good],
        "tpot": [r.tpot for r in good if r.tpot is not None],
        "itl": [gap for r in good for gap in r.itls],
        "e2e": [r.e2e for r in good],
    }
    return {
        "completed": len(good),
        "failed": len(results) - len(good),
        "failures": dict(sorted(failures.items(), key=lambda item: -item[1])[:10]),
        "duration_s": duration_s,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "requests_per_s": len(good) / duration_s,
        "output_tokens_per_s": output_tokens / duration_s,
        "total_tokens_per_s": (prompt_tokens + output_tokens) / duration_s,
        **{f"{name}_ms": summary(samples[name], percentiles, 1e3) for name, _ in METRICS},
    }


def as_text(found: dict[str, Any]) -> str:
    lines = [
        f"requests       {found['completed']} completed, {found['failed']} failed, in {found['duration_s']:.2f} s "
        f"(at most {found['peak_concurrency']} at once)",
        f"tokens         {found['prompt_tokens']} prompt, {found['output_tokens']} output",
        f"throughput     {found['requests_per_s']:.2f} req/s, {found['output_tokens_per_s']:.1f} output tok/s, "
        f"{found['total_tokens_per_s']:.1f} total tok/s",
        "",
    ]
    columns = list(found["ttft_ms"])
    lines.append(" " * 30 + "".join(f"{c + ' ms':>12s}" for c in columns))
    for name, label in METRICS:
        row = "".join("           -" if v is None else f"{v:12.2f}" for v in found[f"{name}_ms"].values())
        lines.append(f"{name.upper():<6s}{label:<24s}{row}")
    for error, count in found["failures"].items():
        lines.append(f"failed {count}x: {error}")
    if found["client_cpu_share"] > _BUSY_CLIENT:
        lines.append(
            f"The client used {found['client_cpu_share']:.0%} of a core: the figures may be its own limit. "
            "Run several clients."
        )
    return "\n".join(lines)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
