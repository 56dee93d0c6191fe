"""The figures that a core gives of itself. Each of several cores has its own, told apart by the label `engine`."""

from kvasir.messages import SchedulerStats
from kvasir.observability.step_report import add_to
from kvasir.observability.values import Values

_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class CoreFigures:
    """Declares them in `values` and keeps them up to date."""

    def __init__(self, values: Values):
        self.values = v = values
        v.gauge("num_requests_running", "Requests in the running batch.")
        v.gauge("num_requests_waiting", "Requests waiting for a place in it.")
        v.gauge("kv_cache_usage_perc", "Share of KV blocks in use, 0 to 1.")
        v.counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.")
        v.counter("prefix_cache_hits", "Prompt tokens found in it.")
        v.counter("num_preemptions", "Times a running request was put back to make room.")
        v.counter("recomputed_tokens", "Tokens computed again because their request was put back.")
        self._steps = v.labelled_counter(
            "engine_steps", "phase", ("prefill", "decode"), "Engine steps, by what they did."
        )
        self._step_seconds = v.labelled_counter(
            "engine_step_seconds",
            "phase",
            ("prefill", "decode", "schedule", "update"),
            "Time in the worker by kind of step, and in the core before and after it.",
        )
        self._step_tokens = v.histogram("iteration_tokens_total", _STEP_TOKENS, "Tokens computed in one engine step.")
        self._phases = v.labelled_counter("step_phase_seconds", "phase", (), "Host time by phase of a step.")
        v.counter("steps_measured", "Steps that step_phase_seconds is about.")
        v.counter("step_worker_seconds", "Time of steps in the worker, from their start to their result.")
        self.latest = SchedulerStats()

    def on_stats(self, stats: SchedulerStats) -> None:
        """Once a report, which may cover several steps; each then counts as one of their mean size."""
        self.latest = stats
        gauges, counters = self.values.gauges, self.values.counters
        gauges["num_requests_running"] = stats.num_running
        gauges["num_requests_waiting"] = stats.num_waiting
        gauges["kv_cache_usage_perc"] = stats.kv_blocks_used / stats.kv_blocks_total if stats.kv_blocks_total else 0.0
        counters["prefix_cache_queries"] += stats.prefix_queries
        counters["prefix_cache_hits"] += stats.prefix_hits
        counters["num_preemptions"] += stats.num_preempted
        counters["recomputed_tokens"] += stats.num_recomputed_tokens
        steps = stats.num_prefill_steps + stats.num_decode_steps
        if steps:
            self._step_tokens.observe(stats.num_scheduled_tokens / steps, steps)
        self._steps["prefill"] += stats.num_prefill_steps
        self._steps["decode"] += stats.num_decode_steps
        for phase in ("prefill", "decode", "schedule", "update"):
            self._step_seconds[phase] += getattr(stats, f"{phase}_s")
        if stats.measured is not None:
            counters["steps_measured"] += stats.measured.num_steps
            counters["step_worker_seconds"] += stats.measured.worker_s
            add_to(self._phases, stats.measured.phase_s)
