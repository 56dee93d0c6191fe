"""The metrics of a server, under vLLM's names with Kvasir's prefix, so that dashboards need one replacement."""

import time
from dataclasses import dataclass
from typing import Protocol

from kvasir.messages import RequestOutput, SchedulerStats
from kvasir.observability.recent import RecentAnswer, RecentAnswers
from kvasir.observability.values import Values

_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5)
_LONG_SECONDS = (
    0.01,
    0.03,
    0.1,
    0.3,
    0.5,
    0.8,
    1,
    1.5,
    2,
    2.5,
    5,
    10,
    15,
    20,
    30,
    40,
    50,
    60,
    120,
    240,
    480,
    960,
    1920,
)
_TOKENS = tuple(base * 10**power for power in range(6) for base in (1, 2, 5))
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_ANSWERS = (1, 2, 5, 10, 20, 50, 100)
FINISH_REASONS = ("stop", "length", "abort", "error")


@dataclass(slots=True)
class FinishedRequestInfo:
    """One answer that ended. Times are in seconds since the epoch, 0.0 where the event has not happened."""

    finish_reason: str
    num_prompt_tokens: int
    num_generation_tokens: int
    arrival_time: float
    first_token_time: float = 0.0
    finish_time: float = 0.0


class Metrics:
    """Everything /metrics shows.

    Args:
        model_name: label of every sample.
        prefix: `kvasir:`, or `vllm:` for dashboards that were made for it.
    """

    def __init__(self, model_name: str, prefix: str = "kvasir:"):
        v = self._values = Values(prefix, {"model_name": model_name, "engine": "0"})
        v.gauge("num_requests_running", "Requests in the running batch.")
        v.gauge("num_requests_waiting", "Requests waiting for a place in it.")
        v.gauge("kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.")
        v.counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        v.counter("prefix_cache_hits", "Prompt tokens found in it.")
        v.counter("prompt_tokens", "Prompt tokens of requests that were started.")
        v.counter("prompt_tokens_cached", "Those of them that came from the prefix cache.")
        v.counter("generation_tokens", "Tokens generated.")
        v.counter("num_preemptions", "Times a running request was put back to make room.")
        v.counter("requests_hung_up", "Requests whose client went away before the end.")
        self._success = v.labelled_counter(
            "request_success", "finished_reason", FINISH_REASONS, "Answers that ended, by reason."
        )
        self._ttft = v.histogram("time_to_first_token_seconds", _SECONDS, "Arrival to first token.")
        self._itl = v.histogram("inter_token_latency_seconds", _TOKEN_SECONDS, "Time per output token after the first.")
        self._tpot = v.histogram(
            "request_time_per_output_token_seconds", _TOKEN_SECONDS, "The same, as each answer's mean."
        )
        self._e2e = v.histogram("e2e_request_latency_seconds", _LONG_SECONDS, "Arrival to last token.")
        self._decode = v.histogram("request_decode_time_seconds", _LONG_SECONDS, "First token to last.")
        self._prompt = v.histogram("request_prompt_tokens", _TOKENS, "Prompt tokens of an answer.")
        self._generation = v.histogram("request_generation_tokens", _TOKENS, "Tokens of an answer.")
        self._n = v.histogram("request_params_n", _ANSWERS, "Answers asked for by a request.")
        self._step_tokens = v.histogram("iteration_tokens_total", _STEP_TOKENS, "Tokens computed in one engine step.")
        self.line = LogLine()
        self.recent = RecentAnswers()

    def on_scheduler_stats(self, stats: SchedulerStats) -> None:
        """Once a step."""
        gauges, counters = self._values.gauges, self._values.counters
        gauges["num_requests_running"] = stats.num_running
        gauges["num_requests_waiting"] = stats.num_waiting
        usage = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        gauges["kv_cache_usage_perc"] = usage
        counters["prefix_cache_queries"] += stats.prefix_queries
        counters["prefix_cache_hits"] += stats.prefix_hits
        counters["num_preemptions"] += stats.num_preempted
        if stats.num_scheduled_tokens:
            self._step_tokens.observe(stats.num_scheduled_tokens)
        self.line.stats = stats
        self.line.prefix_queries += stats.prefix_queries
        self.line.prefix_hits += stats.prefix_hits

    def on_prompt(self, num_tokens: int, num_cached: int, n: int) -> None:
        """Once a request, with its first output."""
        counters = self._values.counters
        counters["prompt_tokens"] += num_tokens
        counters["prompt_tokens_cached"] += num_cached
        self._n.observe(n)
        self.line.prompt_tokens += num_tokens

    def on_tokens(self, num_tokens: int, *, ttft_s: float | None = None, gap_s: float = 0.0) -> None:
        """New tokens of one answer.

        Args:
            ttft_s: set when the first token is among them.
            gap_s: time since the answer's last token, shared out over the tokens after the first.
        """
        self._values.counters["generation_tokens"] += num_tokens
        self.line.generation_tokens += num_tokens
        later = num_tokens
        if ttft_s is not None:
            self._ttft.observe(max(ttft_s, 0.0))
            later -= 1
        elif num_tokens:
            self._itl.observe(max(gap_s, 0.0) / num_tokens, later)

    def on_request_finished(self, info: FinishedRequestInfo) -> None:
        reason = info.finish_reason
        self._success[reason] = self._success.get(reason, 0.0) + 1
        self._prompt.observe(info.num_prompt_tokens)
        self._generation.observe(info.num_generation_tokens)
        if info.finish_time:
            self._e2e.observe(max(info.finish_time - info.arrival_time, 0.0))
        if info.finish_time and info.first_token_time:
            decode_s = max(info.finish_time - info.first_token_time, 0.0)
            self._decode.observe(decode_s)
            if info.num_generation_tokens > 1:
                self._tpot.observe(decode_s / (info.num_generation_tokens - 1))

    def on_hang_up(self) -> None:
        self._values.counters["requests_hung_up"] += 1
        self._success["abort"] += 1

    def totals(self) -> dict[str, float]:
        """Every counter without labels, since the server's start."""
        return dict(self._values.counters)

    def render(self) -> bytes:
        """Prometheus text."""
        return self._values.render()


class AnswerObserver(Protocol):
    """Looks on while the answers to one prompt are made."""

    def on_output(self, output: RequestOutput, n: int) -> None:
        """A DELTA output; `n` answers were asked for."""

    def on_closed(self) -> None:
        """Nobody reads on: what has not finished by now never will."""


class RequestObserver:
    """Turns the DELTA outputs of one request into metrics; `metrics` None makes it do nothing."""

    __slots__ = ("_arrival", "_first", "_last", "_metrics", "_prompt_tokens", "_recent", "_tokens")

    def __init__(self, metrics: Metrics | None):
        self._metrics = metrics
        self._arrival = 0.0
        self._prompt_tokens = -1
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._tokens: dict[int, int] = {}
        self._recent: dict[int, RecentAnswer] = {}  # answers that go on

    def on_output(self, output: RequestOutput, n: int) -> None:
        metrics = self._metrics
        if metrics is None:
            return
        now = output.metrics.last_token_time or time.time()
        if self._prompt_tokens < 0:
            self._arrival = output.metrics.arrival_time or now
            self._prompt_tokens = len(output.prompt_token_ids)
            metrics.on_prompt(self._prompt_tokens, output.num_cached_tokens, n)
        for answer in output.outputs:
            index, count = answer.index, len(answer.token_ids)
            if count:
                if index not in self._first:
                    self._first[index] = output.metrics.first_token_time or now
                    metrics.on_tokens(count, ttft_s=self._first[index] - self._arrival)
                    self._recent[index] = metrics.recent.add(self._answer(output, index))
                else:
                    metrics.on_tokens(count, gap_s=now - self._last[index])
                self._last[index] = now
                self._tokens[index] = self._tokens.get(index, 0) + count
            if answer.finish_reason is not None:
                recent = self._recent.pop(index, None) or metrics.recent.add(self._answer(output, index))
                self._end(recent, answer.finish_reason, now)
                metrics.on_request_finished(
                    FinishedRequestInfo(
                        answer.finish_reason,
                        self._prompt_tokens,
                        self._tokens.get(index, 0),
                        self._arrival,
                        self._first.get(index, 0.0),
                        now,
                    )
                )

    def on_closed(self) -> None:
        """Nobody will read on: what has not finished never will."""
        for recent in self._recent.values():
            self._end(recent, "abort", time.time())
        self._recent.clear()

    def _answer(self, output: RequestOutput, index: int) -> RecentAnswer:
        return RecentAnswer(
            output.request_id,
            index,
            self._arrival,
            self._first.get(index, 0.0),
            self._prompt_tokens,
            output.num_cached_tokens,
        )

    def _end(self, recent: RecentAnswer, reason: str, now: float) -> None:
        recent.num_output_tokens = self._tokens.get(recent.index, 0)
        recent.finish_reason, recent.finish_time = reason, now


class LogLine:
    """Sums since the last line."""

    def __init__(self) -> None:
        self.stats = SchedulerStats()
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self._since = time.monotonic()
        self._was_quiet = True

    def take(self) -> str | None:
        """The line for the time since the last call; None when nothing happened, twice in a row."""
        now = time.monotonic()
        seconds = max(now - self._since, 1e-9)
        stats = self.stats
        quiet = not (self.prompt_tokens or self.generation_tokens or stats.num_running or stats.num_waiting)
        usage = 100.0 * stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        hits = 100.0 * self.prefix_hits / self.prefix_queries if self.prefix_queries else 0.0
        line = (
            f"prompt {self.prompt_tokens / seconds:.0f} tok/s, "
            f"generation {self.generation_tokens / seconds:.0f} tok/s, "
            f"running {stats.num_running}, waiting {stats.num_waiting}, "
            f"KV cache {usage:.1f} %, prefix hits {hits:.1f} %"
        )
        said_enough = quiet and self._was_quiet
        self._since, self._was_quiet = now, quiet
        self.prompt_tokens = self.generation_tokens = self.prefix_queries = self.prefix_hits = 0
        return None if said_enough else line
