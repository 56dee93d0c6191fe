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
    enable_step_times: bool = option(
        False,
        help="Measure the host's time by phase of a step (schedule, execute, sample, wait, read, update), for /metrics "
        "and the log. Can be switched while the engine runs.",
        aliases=("--enable-logging-iteration-details",),
    )
    profile: str | None = option(
        None,
        help="Folder for traces of torch's profiler. Allows start_profile and stop_profile, over HTTP and of LLM; "
        "`kvasir bench throughput` and `latency` then trace what they measure.",
        metavar="DIR",
    )
    enable_log_requests: bool = option(
        False, help="Log each request's id, lengths and parameters. Prompts and outputs are never logged."
    )
