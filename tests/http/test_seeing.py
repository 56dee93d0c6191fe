"""Timelines, traces, stat loggers and the names at /metrics."""

import json
import re
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.messages import (
    CompletionOutput,
    EngineCoreOutput,
    EventKind,
    RequestEvent,
    RequestMetrics,
    RequestOutput,
    SamplingParams,
    SchedulerStats,
)
from kvasir.observability import FinishedRequestInfo, Metrics, RequestInfo, StatLoggers, Timelines, make_tracer
from kvasir.observability.timeline import MAX_EVENTS, MAX_REQUESTS
from kvasir.observability.tracing import Tracer
from tests.http.fake_engine import FakeEngine
from tests.http.live import CLIENT, LiveServer, serving
from tests.http.test_keys import ALICE, ASK, BOB, CHAT, ROOT, bearer, write
from tests.http.test_metrics import samples

ROOT_DIR = Path(__file__).resolve().parents[2]


def said(*events: RequestEvent) -> EngineCoreOutput:
    return EngineCoreOutput(0, 1, 0.0, events=list(events))


def output(request_id: str, tokens: int, at: float, first: float, finish: str | None = None) -> RequestOutput:
    answer = CompletionOutput(0, "", [1] * tokens, finish_reason=finish)
    return RequestOutput(
        request_id, None, [1, 2, 3], [answer], finish is not None, num_cached_tokens=2,
        metrics=RequestMetrics(100.0, first, at),
    )  # fmt: skip


def one_request(metrics: Metrics, **more: object) -> None:
    """Queued at 100, placed at 103, first token at 104, thrown out at 105, back at 107, done at 110."""
    info = RequestInfo("r", 100.0, 3, SamplingParams(max_tokens=50, temperature=0.5), "asked", **more)  # type: ignore[arg-type]
    observers = metrics.watch(info)
    tell = metrics.timelines.on_core_output
    tell(said(RequestEvent("r", EventKind.SCHEDULED, 103.0, 2), RequestEvent("other", EventKind.SCHEDULED, 1.0, 0)))
    for observer in observers:
        observer.on_output(output("r", 1, 104.0, 104.0), 1)
    tell(said(RequestEvent("r", EventKind.PREEMPTED, 105.0, 4), RequestEvent("r", EventKind.RESUMED, 107.0, 3)))
    for observer in observers:
        observer.on_output(output("r", 6, 110.0, 104.0, "stop"), 1)
    for observer in observers:
        observer.on_closed("abort")


# ---- timelines


def test_phases_add_up_and_the_largest_is_named() -> None:
    metrics = Metrics("m")
    one_request(metrics)
    report = metrics.timelines.find("chatcmpl-asked")[0].report(time.time())
    assert report["phases"] == {"queue_s": 3.0, "prefill_s": 1.0, "decode_s": 4.0, "preempted_s": 2.0}
    assert report["summary"] == "10.000 s" and report["most_of_it"] == "generating: 4.000 s"
    assert [(e["at_s"], e["event"], e["tokens"]) for e in report["events"]] == [
        (0.0, "queued", 3), (3.0, "scheduled", 2), (4.0, "first_token", 1), (5.0, "preempted", 4), (7.0, "resumed", 3),
        (10.0, "finished", 7),
    ]  # fmt: skip
    assert (report["preemptions"], report["recomputed_tokens"], report["finish_reason"]) == (1, 3, "stop")


def test_metrics_by_phase() -> None:
    metrics = Metrics("m")
    one_request(metrics)
    found = samples(metrics)
    for name, seconds in (("queue", 3.0), ("prefill", 1.0), ("inference", 7.0), ("decode", 6.0)):
        assert found[f"kvasir:request_{name}_time_seconds_sum", ""] == pytest.approx(seconds), name
    assert found["kvasir:request_prefill_kv_computed_tokens_sum", ""] == 1
    assert found["kvasir:request_params_max_tokens_sum", ""] == 50


def test_the_ring_is_bounded() -> None:
    timelines = Timelines()
    for i in range(MAX_REQUESTS + 50):
        timelines.add(RequestInfo(f"r{i}", 0.0, 1, SamplingParams(), f"asked{i // 2}"))
    assert len(timelines) == MAX_REQUESTS and len(timelines._by_asked) == MAX_REQUESTS // 2
    assert timelines.find("r0") == [] and len(timelines.find(f"asked{MAX_REQUESTS // 2}")) == 2
    last = timelines.find(f"r{MAX_REQUESTS}")[0]
    for i in range(2 * MAX_EVENTS):
        timelines.on_core_output(said(RequestEvent(f"0_r{MAX_REQUESTS}", EventKind.PREEMPTED, float(i), 1)))
    assert len(last.events) == MAX_EVENTS and last.num_preemptions == 2 * MAX_EVENTS


def test_over_http_and_only_to_whom_it_belongs(tmp_path: Path) -> None:
    keys = write(
        tmp_path / "k.yaml",
        {"name": "a", "key": ALICE},
        {"name": "b", "key": BOB},
        {"name": "root", "key": ROOT, "scopes": ["admin"]},
    )
    with serving(FakeEngine(), ServerSettings(api_keys_file=keys)) as live:
        answer = CLIENT.post(live.url + CHAT, json={**ASK, "n": 2}, headers={**bearer(ALICE), "X-Request-Id": "mine"})
        for name in ("mine", answer.json()["id"]):
            url = f"{live.url}/v1/requests/{name}/timeline"
            found = CLIENT.get(url, headers=bearer(ALICE)).json()
            assert found["id"] == name and found["prompts"][0]["output_tokens"] == 20
            assert [e["event"] for e in found["prompts"][0]["events"]] == ["queued", "first_token", "finished"]
            assert CLIENT.get(url, headers=bearer(ROOT)).status_code == 200
            assert CLIENT.get(url, headers=bearer(BOB)).status_code == 404
            assert "Hi" not in json.dumps(found)
        assert CLIENT.get(live.url + "/v1/requests/none/timeline", headers=bearer(ALICE)).status_code == 404


def test_a_request_whose_client_left_is_closed(server: LiveServer) -> None:
    from tests.http.fake_engine import Script
    from tests.http.test_life import until

    server.engine.script = Script(text="x" * 90, delay_s=0.02)
    with CLIENT.stream(
        "POST", server.url + CHAT, json={**ASK, "max_tokens": 90, "stream": True}, headers={"X-Request-Id": "left"}
    ) as response:
        next(response.iter_bytes())
    until(lambda: server.engine.running == 0)
    report = CLIENT.get(server.url + "/v1/requests/left/timeline").json()["prompts"][0]
    assert report["finish_reason"] == "abort" and report["events"][-1]["event"] == "finished"


# ---- traces


def test_spans_have_the_attributes_and_the_callers_context() -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    metrics = Metrics("m")
    metrics.tracer = Tracer(provider, "m")
    one_request(metrics, tenant="alice", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    one_request(metrics, traceparent="nonsense")
    span, other = exporter.get_finished_spans()
    assert span.name == "chat m" and (span.end_time - span.start_time) / 1e9 == 10.0
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent is not None and other.parent is None
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "kvasir", "gen_ai.request.model": "m",
        "gen_ai.response.model": "m", "gen_ai.response.id": "asked", "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.5, "gen_ai.request.top_p": 1.0,
        "gen_ai.response.finish_reasons": ("stop",), "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 7, "gen_ai.usage.cached_tokens": 2, "gen_ai.latency.time_in_queue": 3.0,
        "gen_ai.latency.time_in_model_prefill": 1.0, "gen_ai.latency.time_in_model_decode": 4.0,
        "gen_ai.latency.e2e": 10.0, "gen_ai.latency.time_to_first_token": 4.0, "kvasir.preemptions": 1,
        "kvasir.key": "alice",
    }  # fmt: skip
    assert [e.name for e in span.events] == ["scheduled", "preempted", "resumed", "first_token"]


def test_no_endpoint_no_tracer() -> None:
    assert make_tracer(None, "m") is None


# ---- stat loggers


class Recorder:
    made: "list[Recorder]" = []

    def __init__(self, model_name: str):
        self.model_name, self.stats, self.finished = model_name, [], []
        Recorder.made.append(self)

    def on_scheduler_stats(self, stats: SchedulerStats) -> None:
        self.stats.append(stats)

    def on_request_finished(self, info: FinishedRequestInfo) -> None:
        self.finished.append(info)


class Broken(Recorder):
    def on_scheduler_stats(self, stats: SchedulerStats) -> None:
        raise RuntimeError("a plugin's bug")


def test_stat_loggers_are_told_and_their_faults_stay_theirs() -> None:
    points = [
        EntryPoint(name, f"tests.http.test_seeing:{value}", "kvasir.stat_loggers")
        for name, value in (("good", "Recorder"), ("bad", "Broken"), ("missing", "Nothing"))
    ]
    Recorder.made.clear()
    found = StatLoggers("m", points)
    assert len(found) == 2
    metrics = Metrics("m")
    metrics.stat_loggers = found
    metrics.on_scheduler_stats(SchedulerStats(num_running=3))
    metrics.on_scheduler_stats(SchedulerStats(num_running=4))
    one_request(metrics)
    assert len(found) == 1
    [good] = [r for r in Recorder.made if type(r).__name__ == "Recorder"]
    assert [s.num_running for s in good.stats] == [3, 4] and good.model_name == "m"
    assert good.finished[0].finish_reason == "stop"


# ---- names


VLLM_NAMES = """num_requests_running num_requests_waiting kv_cache_usage_perc prefix_cache_queries_total
prefix_cache_hits_total num_preemptions_total prompt_tokens_total generation_tokens_total request_success_total
request_prompt_tokens request_generation_tokens iteration_tokens_total request_params_n request_params_max_tokens
time_to_first_token_seconds inter_token_latency_seconds request_time_per_output_token_seconds
e2e_request_latency_seconds request_queue_time_seconds request_inference_time_seconds request_prefill_time_seconds
request_decode_time_seconds request_prefill_kv_computed_tokens""".split()


def names_of(metrics: Metrics) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+)", metrics.render().decode(), re.MULTILINE))


def test_names_that_dashboards_know() -> None:
    found = names_of(Metrics("m", "vllm:"))
    assert {"vllm:" + name for name in VLLM_NAMES} <= found


@pytest.mark.parametrize("file", ["dashboard.json", "alerts.yaml"])
def test_the_examples_ask_for_metrics_that_exist(file: str) -> None:
    text = (ROOT_DIR / "examples" / "monitoring" / file).read_text()
    asked = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"kvasir:\w+", text)}
    known = names_of(Metrics("m"))
    assert len(asked) > 5 and asked <= known, asked - known
    assert asked >= {"kvasir:engine_restarts_total", "kvasir:requests_refused_as_poison_total"}


def test_steps_and_what_waits() -> None:
    class Waiting:
        num_waiting_tokens, num_refused = 70, 4

        def expected_wait_s(self) -> float:
            return 2.5

    metrics = Metrics("m", queue=Waiting())
    metrics.on_scheduler_stats(
        SchedulerStats(num_scheduled_tokens=300, num_prefill_steps=1, num_decode_steps=2, prefill_s=0.5, decode_s=0.2,
                       schedule_s=0.01, update_s=0.02, num_recomputed_tokens=9, num_preempted=1, num_running=1)
    )  # fmt: skip
    text = metrics.render().decode()

    def value(name: str, label: str = "") -> float:
        [found] = re.findall(rf"^kvasir:{name}{{[^}}]*{label}[^}}]*}} (\S+)$", text, re.MULTILINE)
        return float(found)

    assert value("engine_step_seconds_total", 'phase="decode"') == 0.2
    assert value("engine_step_seconds_total", 'phase="schedule"') == 0.01
    assert value("engine_steps_total", 'phase="decode"') == 2
    assert value("iteration_tokens_total_count") == 3 and value("iteration_tokens_total_sum") == 300
    assert value("recomputed_tokens_total") == 9 and value("requests_refused_total") == 4
    assert value("num_waiting_tokens") == 70 and value("expected_queue_wait_seconds") == 2.5
    one_request(metrics)
    line = metrics.line.take()
    assert line is not None
    assert "first token p50 4.0 s p99 4.0 s (in the queue p99 3.0 s)" in line
    assert "preempted 1 (9 tokens computed again)" in line


def test_answers_that_end_early_are_counted_by_why(server: LiveServer) -> None:
    from kvasir.errors import DeadlineError, RequestFailedError
    from tests.http.fake_engine import Script

    def count(reason: str) -> float:
        text = CLIENT.get(server.url + "/metrics").text
        [value] = re.findall(rf'request_success_total{{[^}}]*finished_reason="{reason}"[^}}]*}} (\S+)', text)
        return float(value)

    for error, status, reason in (
        (DeadlineError("time is up"), 504, "abort"),
        (RequestFailedError("a bug"), 500, "error"),
    ):
        before = count(reason)
        server.engine.script = Script(text="x" * 90, fail_after=4, fail_with=error)
        response = CLIENT.post(server.url + CHAT, json={**ASK, "n": 2})
        assert response.status_code == status and count(reason) == before + 2
