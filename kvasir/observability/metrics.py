"""The metrics of a server, under vLLM's names with Kvasir's prefix, so that dashboards need one replacement."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kvasir.messages import RequestOutput, SchedulerStats
from kvasir.observability.core_figures import CoreFigures
from kvasir.observability.log_line import LogLine, total
from kvasir.observability.observer import AnswerObserver, RequestInfo
from kvasir.observability.recent import RecentAnswer, RecentAnswers
from kvasir.observability.timeline import Timeline, TimelineObserver, Timelines
from kvasir.observability.tracing import TraceObserver, Tracer
from kvasir.observability.values import Values, render

if TYPE_CHECKING:
    from kvasir.observability.stat_loggers import StatLoggers

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
_ANSWERS = (1, 2, 5, 10, 20, 50, 100)
RESTART_REASONS = ("killed", "stopped", "crashed", "device_fault", "stuck", "unreadable")
Dump = list[dict[str, Any]]
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


class Queue(Protocol):
    """What is told of those that wait."""

    num_waiting_tokens: int
    num_refused: int

    def expected_wait_s(self) -> float: ...


class Recovery(Protocol):
    """What is told of a core that took over."""

    @property
    def reason(self) -> str: ...  # one of RESTART_REASONS

    @property
    def seconds(self) -> float: ...

    @property
    def num_refused(self) -> int: ...


class Metrics:
    """Everything /metrics shows.

    Args:
        model_name: label of every sample.
        prefix: `kvasir:`, or `vllm:` for dashboards that were made for it.
        queue: asked when the figures are shown.
        num_cores: each has its own figures; those of requests carry the first one's label.
    """

    def __init__(self, model_name: str, prefix: str = "kvasir:", queue: Queue | None = None, num_cores: int = 1):
        self._made_of = model_name, prefix, None, num_cores
        parts = [Values(prefix, {"model_name": model_name, "engine": str(i)}) for i in range(num_cores)]
        self._cores = [CoreFigures(part) for part in parts]
        v = self._values = parts[0]
        v.counter("prompt_tokens", "Prompt tokens of requests that were started.")
        v.counter("prompt_tokens_cached", "Those of them that came from the prefix cache.")
        v.counter("generation_tokens", "Tokens generated.")
        v.gauge("num_waiting_tokens", "Prompt tokens of requests that have no token out yet.")
        v.gauge("expected_queue_wait_seconds", "Time until all that wait now have their first token, at this pace.")
        v.counter("requests_refused", "Requests refused because too much waits.")
        v.counter("requests_hung_up", "Requests whose client went away before the end.")
        self._success = v.labelled_counter(
            "request_success", "finished_reason", FINISH_REASONS, "Answers that ended, by reason."
        )
        self._restarts = v.labelled_counter(
            "engine_restarts", "reason", RESTART_REASONS, "Engine cores that took over from a dead one, by its end."
        )
        v.counter("requests_refused_as_poison", "Requests that ended the core twice while it ran them alone.")
        self._recovery = v.histogram("engine_recovery_seconds", _LONG_SECONDS, "Death of a core to the next one.")
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
        self._queue_time = v.histogram("request_queue_time_seconds", _LONG_SECONDS, "Arrival to being placed.")
        self._prefill = v.histogram("request_prefill_time_seconds", _LONG_SECONDS, "Being placed to first token.")
        self._inference = v.histogram("request_inference_time_seconds", _LONG_SECONDS, "Being placed to last token.")
        self._computed = v.histogram(
            "request_prefill_kv_computed_tokens", _TOKENS, "Prompt tokens of a request that were not in the cache."
        )
        self._max_tokens = v.histogram("request_params_max_tokens", _TOKENS, "max_tokens of a request.")
        self._queue = queue
        self.line = LogLine()
        self.recent = RecentAnswers()
        self.timelines = Timelines()
        self.tracer: Tracer | None = None
        self.stat_loggers: StatLoggers | None = None

    def on_scheduler_stats(self, stats: SchedulerStats, core: int = 0) -> None:
        """Once a step."""
        if self.stat_loggers is not None:
            self.stat_loggers.on_scheduler_stats(stats)
        self._cores[core].on_stats(stats)
        if stats.measured is not None:
            self.line.add_phases(stats.measured)
        self.line.stats = total([figures.latest for figures in self._cores])
        self.line.num_preempted += stats.num_preempted
        self.line.num_recomputed += stats.num_recomputed_tokens
        self.line.prefix_queries += stats.prefix_queries
        self.line.prefix_hits += stats.prefix_hits

    def watch(self, info: RequestInfo) -> list[AnswerObserver]:
        """Those who look on while the prompt of `info` is answered, in the order in which they are told."""
        timeline = self.timelines.add(info)
        if info.params.max_tokens is not None:
            self._max_tokens.observe(info.params.max_tokens)
        observers: list[AnswerObserver] = [
            RequestObserver(self, info.params.n),
            TimelineObserver(timeline),
            _Phases(self, timeline),
        ]
        if self.tracer is not None:
            observers.append(TraceObserver(self.tracer, timeline))
        return observers

    def on_phases(self, timeline: Timeline) -> None:
        """Once a request that has been placed."""
        phases = timeline.phases(timeline.finish_time)
        self._queue_time.observe(phases["queue_s"])
        self.line.queue_s.append(phases["queue_s"])
        self._computed.observe(max(timeline.info.num_prompt_tokens - timeline.num_cached_tokens, 0))
        if timeline.first_token_time:
            self._prefill.observe(phases["prefill_s"])
            self._inference.observe(max(timeline.finish_time - timeline.scheduled_time, 0.0))

    def on_prompt(self, num_tokens: int, num_cached: int, n: int) -> None:
        """Once a request, with its first output."""
        counters = self._values.counters
        counters["prompt_tokens"] += num_tokens
        counters["prompt_tokens_cached"] += num_cached
        self._n.observe(n)
        self.line.prompt_tokens += num_tokens

    def on_first_token(self, ttft_s: float) -> None:
        """Of an answer."""
        self._values.counters["generation_tokens"] += 1
        self.line.generation_tokens += 1
        self._ttft.observe(max(ttft_s, 0.0))
        self.line.ttft_s.append(ttft_s)

    def on_later_tokens(self, num_tokens: int, gap_s: float) -> None:
        """Tokens of one answer that came `gap_s` after the one before them."""
        if num_tokens:
            self._values.counters["generation_tokens"] += num_tokens
            self.line.generation_tokens += num_tokens
            self._itl.observe(max(gap_s, 0.0) / num_tokens, num_tokens)

    def on_request_finished(self, info: FinishedRequestInfo) -> None:
        if self.stat_loggers is not None:
            self.stat_loggers.on_request_finished(info)
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

    def on_recovery(self, recovery: Recovery) -> None:
        """Once for each restart of the core."""
        self._restarts[recovery.reason] += 1
        self._recovery.observe(recovery.seconds)
        self._values.counters["requests_refused_as_poison"] += recovery.num_refused

    def on_hang_up(self) -> None:
        self._values.counters["requests_hung_up"] += 1

    def on_unfinished(self, reason: str, num_answers: int) -> None:
        """Answers that ended early: their client left, their time was up, or they failed."""
        self._success[reason] += num_answers

    def totals(self, others: Sequence[Dump] = ()) -> dict[str, float]:
        """Every counter without labels, since the server's start; `others` as in `render`."""
        sums: dict[str, float] = {}
        for part in (*self.dump(), *(part for dump in others for part in dump)):
            for name, value in part["counters"].items():
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def dump(self) -> Dump:
        """All figures as plain data, one part a core, for a process that shows them with its own."""
        self._ask_queue()
        return [figures.values.dump() for figures in self._cores]

    def empty_copy(self) -> "Metrics":
        """The same figures, all of them nothing."""
        return Metrics(*self._made_of)

    def add(self, dump: Dump) -> None:
        """Adds what another process dumped."""
        for figures, part in zip(self._cores, dump, strict=True):
            figures.values.add(part)

    def render(self, others: Sequence[Dump] = ()) -> bytes:
        """Prometheus text, of this process and of those that gave `others`."""
        if not others:
            self._ask_queue()
            return render([figures.values for figures in self._cores])
        whole = self.empty_copy()
        for dump in (self.dump(), *others):
            whole.add(dump)
        return render([figures.values for figures in whole._cores])

    def _ask_queue(self) -> None:
        if self._queue is not None:
            self._values.gauges["num_waiting_tokens"] = self._queue.num_waiting_tokens
            self._values.gauges["expected_queue_wait_seconds"] = self._queue.expected_wait_s()
            self._values.counters["requests_refused"] = self._queue.num_refused


class _Seen:
    """What was observed of one answer."""

    __slots__ = ("last_time", "num_tokens", "recent")

    def __init__(self, recent: RecentAnswer):
        self.recent = recent
        self.last_time = 0.0
        self.num_tokens = 0

    def end(self, reason: str, now: float) -> None:
        self.recent.num_output_tokens = self.num_tokens
        self.recent.finish_reason, self.recent.finish_time = reason, now


class RequestObserver:
    """Turns the outputs of one request into metrics.

    An output may hold the tokens of several steps, all of the answer even; the time between them is shared out.
    """

    __slots__ = ("_answers", "_arrival", "_metrics", "_n", "_num_finished", "_prompt_tokens")
    hears_outputs = True

    def __init__(self, metrics: Metrics, n: int):
        self._metrics = metrics
        self._n, self._num_finished = n, 0
        self._arrival = 0.0
        self._prompt_tokens = -1
        self._answers: dict[int, _Seen] = {}

    def on_output(self, output: RequestOutput, n: int) -> None:
        metrics = self._metrics
        now = output.metrics.last_token_time or time.time()
        if self._prompt_tokens < 0:
            self._arrival = output.metrics.arrival_time or now
            self._prompt_tokens = len(output.prompt_token_ids)
            metrics.on_prompt(self._prompt_tokens, output.num_cached_tokens, n)
        for answer in output.outputs:
            seen = self._answers.get(answer.index) or self._seen(output, answer.index, metrics)
            count = len(answer.token_ids)
            if count and not seen.num_tokens:
                first = seen.recent.first_token_time = output.metrics.first_token_time or now
                metrics.on_first_token(first - self._arrival)
                metrics.on_later_tokens(count - 1, now - first)
            elif count:
                metrics.on_later_tokens(count, now - seen.last_time)
            seen.last_time = now
            seen.num_tokens += count
            if answer.finish_reason is not None:
                self._num_finished += 1
                seen.end(answer.finish_reason, now)
                metrics.on_request_finished(
                    FinishedRequestInfo(
                        answer.finish_reason,
                        self._prompt_tokens,
                        seen.num_tokens,
                        self._arrival,
                        seen.recent.first_token_time,
                        now,
                    )
                )

    def on_closed(self, reason: str) -> None:
        for seen in self._answers.values():
            if seen.recent.finish_reason is None:
                seen.end(reason, time.time())
        if unfinished := self._n - self._num_finished:
            self._metrics.on_unfinished(reason, unfinished)

    def _seen(self, output: RequestOutput, index: int, metrics: Metrics) -> _Seen:
        seen = self._answers.get(index)
        if seen is None:
            recent = RecentAnswer(
                output.request_id,
                index,
                output.metrics.arrival_time,
                0.0,
                len(output.prompt_token_ids),
                output.num_cached_tokens,
            )
            seen = self._answers[index] = _Seen(metrics.recent.add(recent))
        return seen


class _Phases:
    """Observes how long a request was in each phase, once it is over; comes after the observer of its timeline."""

    __slots__ = ("_metrics", "_timeline")
    hears_outputs = False

    def __init__(self, metrics: Metrics, timeline: Timeline):
        self._metrics, self._timeline = metrics, timeline

    def on_output(self, output: RequestOutput, n: int) -> None:
        """The timeline has it."""

    def on_closed(self, reason: str) -> None:
        if self._timeline.scheduled_time:
            self._metrics.on_phases(self._timeline)
