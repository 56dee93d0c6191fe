"""OpenTelemetry traces: one span a prompt, with the attributes of the GenAI conventions. No prompt, no answer.

The SDK is an extra (`pip install 'kvasir-llm[tracing]'`), imported only when --otlp-traces-endpoint is given. Spans
are made when a request has ended, from the times that its timeline has, so a stream pays nothing for them.
"""

import threading
from typing import Any

from kvasir.errors import ConfigError
from kvasir.messages import RequestOutput
from kvasir.observability.timeline import Timeline

_NANO = 1_000_000_000


class Tracer:
    """Makes a span of a finished timeline.

    Args:
        provider: an OpenTelemetry TracerProvider.
    """

    def __init__(self, provider: Any, model_name: str):
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._provider = provider
        self._tracer = provider.get_tracer("kvasir")
        self._propagator = TraceContextTextMapPropagator()
        self._model = model_name

    def on_finished(self, timeline: Timeline) -> None:
        info = timeline.info
        context = self._propagator.extract({"traceparent": info.traceparent}) if info.traceparent else None
        span = self._tracer.start_span(
            f"{info.operation} {self._model}",
            context=context,
            kind=self._trace.SpanKind.SERVER,
            start_time=int(info.arrival_time * _NANO),
            attributes=self._attributes(timeline),
        )
        for time, kind, tokens in timeline.events:
            span.add_event(kind, {"tokens": tokens}, timestamp=int(time * _NANO))
        if timeline.first_token_time:
            span.add_event("first_token", timestamp=int(timeline.first_token_time * _NANO))
        if timeline.finish_reason in ("abort", "error"):
            span.set_status(self._trace.StatusCode.ERROR, timeline.finish_reason)
        span.end(end_time=int(timeline.finish_time * _NANO))

    def _attributes(self, timeline: Timeline) -> dict[str, Any]:
        info, params, phases = timeline.info, timeline.info.params, timeline.phases(timeline.finish_time)
        found = {
            "gen_ai.operation.name": info.operation,
            "gen_ai.provider.name": "kvasir",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.id": info.asked_as,
            "gen_ai.request.max_tokens": params.max_tokens,
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.top_k": params.top_k or None,
            "gen_ai.request.choice.count": params.n if params.n > 1 else None,
            "gen_ai.request.seed": params.seed,
            "gen_ai.response.finish_reasons": [timeline.finish_reason or "abort"],
            "gen_ai.usage.input_tokens": info.num_prompt_tokens,
            "gen_ai.usage.output_tokens": timeline.num_output_tokens,
            "gen_ai.usage.cached_tokens": timeline.num_cached_tokens,
            "gen_ai.latency.time_in_queue": phases["queue_s"],
            "gen_ai.latency.time_in_model_prefill": phases["prefill_s"],
            "gen_ai.latency.time_in_model_decode": phases["decode_s"],
            "gen_ai.latency.e2e": timeline.finish_time - info.arrival_time,
            "kvasir.preemptions": timeline.num_preemptions,
            "kvasir.key": info.tenant or None,
        }
        if timeline.first_token_time:
            found["gen_ai.latency.time_to_first_token"] = timeline.first_token_time - info.arrival_time
        return {name: value for name, value in found.items() if value is not None}

    def close(self) -> None:
        """Sends what is left. A collector that does not answer holds a stop up for two seconds, not more."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(2.0)


class TraceObserver:
    """Hands a timeline over once it is complete; comes after the observer that fills it."""

    __slots__ = ("_timeline", "_tracer")
    hears_outputs = False

    def __init__(self, tracer: Tracer, timeline: Timeline):
        self._tracer, self._timeline = tracer, timeline

    def on_output(self, output: RequestOutput, n: int) -> None:
        """The timeline has it."""

    def on_closed(self, reason: str) -> None:
        self._tracer.on_finished(self._timeline)


def make_tracer(endpoint: str | None, model_name: str) -> Tracer | None:
    """None without an endpoint.

    Raises:
        ConfigError: the SDK is not installed.
    """
    if not endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigError(
            f"--otlp-traces-endpoint needs OpenTelemetry's SDK ({error}): pip install 'kvasir-llm[tracing]'."
        ) from None
    url = endpoint if endpoint.rstrip("/").endswith("/v1/traces") else endpoint.rstrip("/") + "/v1/traces"
    provider = TracerProvider(resource=Resource.create({"service.name": "kvasir"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=5)))
    return Tracer(provider, model_name)
