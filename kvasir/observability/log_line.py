"""The periodic line of the log: what was done since the last one, what waits, and what went wrong."""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from kvasir.messages import SchedulerStats, StepPhases

_SAMPLES = 4096


class LogLine:
    """Sums since the last line."""

    def __init__(self) -> None:
        self.stats = SchedulerStats()
        self.ttft_s: deque[float] = deque(maxlen=_SAMPLES)
        self.queue_s: deque[float] = deque(maxlen=_SAMPLES)
        self.phases = StepPhases(0, 0.0, {})
        self._since = time.monotonic()
        self._was_quiet = True
        self._reset()

    def _reset(self) -> None:
        self.prompt_tokens = self.generation_tokens = 0
        self.prefix_queries = self.prefix_hits = 0
        self.num_preempted = self.num_recomputed = 0
        self.ttft_s.clear()
        self.queue_s.clear()

    def add_phases(self, more: StepPhases) -> None:
        self.phases.num_steps += more.num_steps
        self.phases.worker_s += more.worker_s
        add_to(self.phases.phase_s, more.phase_s)

    def take_phases(self) -> str | None:
        """Milliseconds of a step by phase since the last call; None when none were measured."""
        phases, self.phases = self.phases, StepPhases(0, 0.0, {})
        return phase_text(phases) if phases.num_steps else None

    def take_all(self) -> list[str]:
        """The lines that there are."""
        return [line for line in (self.take(), self.take_phases()) if line is not None]

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
        if self.ttft_s:
            line += f", first token p50 {_quantile(self.ttft_s, 0.5)} p99 {_quantile(self.ttft_s, 0.99)}"
        if self.queue_s and max(self.queue_s) > 0.1:
            line += f" (in the queue p99 {_quantile(self.queue_s, 0.99)})"
        if self.num_preempted:
            line += f", preempted {self.num_preempted} ({self.num_recomputed} tokens computed again)"
        said_enough = quiet and self._was_quiet
        self._since, self._was_quiet = now, quiet
        self._reset()
        return None if said_enough else line


def total(stats: Sequence[SchedulerStats]) -> SchedulerStats:
    """What several cores hold, as one."""
    if len(stats) == 1:
        return stats[0]
    return SchedulerStats(
        num_running=sum(s.num_running for s in stats),
        num_waiting=sum(s.num_waiting for s in stats),
        kv_blocks_total=sum(s.kv_blocks_total for s in stats),
        kv_blocks_used=sum(s.kv_blocks_used for s in stats),
    )


def _quantile(samples: Iterable[float], share: float) -> str:
    ordered = sorted(samples)
    seconds = ordered[min(int(share * len(ordered)), len(ordered) - 1)]
    return f"{seconds * 1000:.0f} ms" if seconds < 1.0 else f"{seconds:.1f} s"


def add_to(sums: dict[str, float], more: Mapping[str, float]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0.0) + value


def phase_text(phases: StepPhases) -> str:
    """`120 steps of 3.100 ms: schedule 0.050, ...; in the worker 2.950 ms`."""
    each = 1e3 / phases.num_steps
    parts = ", ".join(f"{phase} {seconds * each:.3f}" for phase, seconds in phases.phase_s.items())
    total = sum(phases.phase_s.values()) * each
    return f"{phases.num_steps} steps of {total:.3f} ms: {parts}; in the worker {phases.worker_s * each:.3f} ms"
