"""What the engine tells about itself."""

from dataclasses import dataclass

from kvasir.config.option import at_least, option


@dataclass(frozen=True)
class ObservabilityConfig:
    """What the engine tells about itself."""

    disable_log_stats: bool = option(False, help="No periodic line with throughput, queue and cache use.")
    log_stats_interval_s: float = option(10.0, help="Seconds between two such lines.", check=at_least(0.1), unit="s")
    enable_log_requests: bool = option(
        False, help="Log each request's id, lengths and parameters. Prompts and outputs are never logged."
    )
