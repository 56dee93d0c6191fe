"""The periodic line of the log: what was done since the last one, what waits, and what went wrong."""

import time
from collections import deque
from collections.abc import Iterable, Sequence

from kvasir.messages import SchedulerStats, StepPhases
from kvasir.observability.step_report import add_phases, figure_lines, no_phases, phase_figures

_SAMPLES = 4096


class LogLine:
    """Sums since the last line."""

    def __init__(self) -> None:
        self.stats = SchedulerStats()
        self.ttft_s: deque[float] = deque(maxlen=_SAMPLES)
        self.queue_s: deque[float] = deque(maxlen=_SAMPLES)
        self.phases = no_phases()
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
        add_phases(self.phases, more)

    def take_phases(self) -> list[str]:
        """Milliseconds of steps by phase since the last call: a line for each kind of step that was measured."""
        phases, self.phases = self.phases, no_phases()
        return figure_lines(phase_figures(phases))

    def take_all(self) -> list[str]:
        """The lines that there are."""
        line = self.take()
        return [*([] if line is None else [line]), *self.take_phases()]

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
