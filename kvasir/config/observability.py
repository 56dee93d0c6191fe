"""What the engine tells about itself."""

import re
from dataclasses import dataclass

from kvasir.config.option import at_least, option


@dataclass(frozen=True)
class ObservabilityConfig:
    """What the engine tells about itself."""

    disable_log_stats: bool = option(False, help="No periodic line with throughput, queue and cache use.")
    log_stats_interval_s: float = option(10.0, help="Seconds between two such lines.", check=at_least(0.1), unit="s")
    metrics_prefix: str = option(
        "kvasir",
        help="What the names at /metrics begin with; vllm, and dashboards made for it work as they are.",
        check=lambda value: (
            None if re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]{0,63}", value) else "must be letters, digits and _"
        ),
    )
    otlp_traces_endpoint: str | None = option(
        None,
        help="URL of an OpenTelemetry collector (OTLP over HTTP), such as http://localhost:4318; a trace of each "
        "request is sent there, without its texts. Needs the extra kvasir-llm[tracing].",
    )
    enable_log_requests: bool = option(
        False, help="Log each request's id, lengths and parameters. Prompts and outputs are never logged."
    )
