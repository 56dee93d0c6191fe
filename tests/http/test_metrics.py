"""The figures behind /metrics."""

import random

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kvasir.engine.supervisor.death import Cause
from kvasir.engine.supervisor.supervisor import Recovery
from kvasir.messages import CompletionOutput, RequestMetrics, RequestOutput, SchedulerStats
from kvasir.observability import Metrics
from kvasir.observability.metrics import RESTART_REASONS, RequestObserver
from kvasir.observability.values import Histogram


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for s in family.samples:
            found[s.name, s.labels.get("le") or s.labels.get("finished_reason") or ""] = s.value
    return found


@pytest.mark.parametrize("seed", range(3))
def test_histogram_counts_as_prometheus_does(seed: int) -> None:
    rng = random.Random(seed)
    bounds = (0.1, 0.5, 1.0)
    values = [rng.choice((0.1, 0.5, 1.0, rng.uniform(0, 2))) for _ in range(200)]
    histogram = Histogram(bounds)
    for v in values:
        histogram.observe(v)
    expected = [sum(v <= b for v in values) for b in bounds] + [len(values)]
    assert [count for _, count in histogram.cumulative()] == expected
    assert [le for le, _ in histogram.cumulative()] == ["0.1", "0.5", "1.0", "+Inf"]
    assert histogram.total == pytest.approx(sum(values))


def output(text_tokens: list[int], at: float, finish: str | None = None) -> RequestOutput:
    return RequestOutput(
        "r", None, [1, 2, 3], [CompletionOutput(0, "", text_tokens, finish_reason=finish)], finish is not None,
        num_cached_tokens=2, metrics=RequestMetrics(100.0, 100.5, at),
    )  # fmt: skip


def test_one_request() -> None:
    metrics = Metrics("m")
    observer = RequestObserver(metrics, 1)
    observer.on_output(output([5], 100.5), 1)
    observer.on_output(output([6, 7], 100.7), 1)  # two tokens that came merged share their gap
    observer.on_output(output([8], 101.5, "length"), 1)
    found = samples(metrics)
    assert found["kvasir:prompt_tokens_total", ""] == 3 and found["kvasir:prompt_tokens_cached_total", ""] == 2
    assert found["kvasir:generation_tokens_total", ""] == 4
    assert found["kvasir:time_to_first_token_seconds_sum", ""] == pytest.approx(0.5)
    assert found["kvasir:inter_token_latency_seconds_count", ""] == 3
    assert found["kvasir:inter_token_latency_seconds_sum", ""] == pytest.approx(1.0)
    assert found["kvasir:inter_token_latency_seconds_bucket", "0.15"] == 2
    assert found["kvasir:e2e_request_latency_seconds_sum", ""] == pytest.approx(1.5)
    assert found["kvasir:request_time_per_output_token_seconds_sum", ""] == pytest.approx(1.0 / 3)
    assert found["kvasir:request_success_total", "length"] == 1 and found["kvasir:request_success_total", "stop"] == 0


def test_scheduler_figures_and_the_log_line() -> None:
    metrics = Metrics("m", prefix="vllm:")
    assert metrics.line.take() is None, "nothing happened, nothing is said"
    metrics.on_scheduler_stats(SchedulerStats(2, 1, 10, 4, prefix_queries=100, prefix_hits=25, num_preempted=1))
    metrics.on_scheduler_stats(
        SchedulerStats(3, 0, 10, 5, prefix_queries=0, prefix_hits=0, num_scheduled_tokens=7, num_decode_steps=1)
    )
    found = samples(metrics)
    assert found["vllm:num_requests_running", ""] == 3 and found["vllm:kv_cache_usage_perc", ""] == 0.5
    assert found["vllm:prefix_cache_queries_total", ""] == 100 and found["vllm:prefix_cache_hits_total", ""] == 25
    assert found["vllm:num_preemptions_total", ""] == 1 and found["vllm:iteration_tokens_total_sum", ""] == 7
    line = metrics.line.take()
    assert line is not None and "running 3" in line and "KV cache 50.0 %" in line and "prefix hits 25.0 %" in line
    metrics.on_scheduler_stats(SchedulerStats(kv_blocks_total=10))
    assert metrics.line.take() is not None, "one line says that it is quiet now"
    assert metrics.line.take() is None


def test_restarts_by_reason() -> None:
    metrics = Metrics("m")
    for cause in Cause:  # each is a label, so that none is lost
        metrics.on_recovery(Recovery(cause.value, 1.2, 1 if cause is Cause.CRASHED else 0))
    text = metrics.render().decode()
    for cause in Cause:
        assert f'kvasir:engine_restarts_total{{engine="0",model_name="m",reason="{cause.value}"}} 1.0' in text
    assert RESTART_REASONS == tuple(cause.value for cause in Cause)
    found = samples(metrics)
    assert found["kvasir:requests_refused_as_poison_total", ""] == 1
    assert found["kvasir:engine_recovery_seconds_count", ""] == len(Cause)
    assert found["kvasir:engine_recovery_seconds_bucket", "1.5"] == len(Cause)
