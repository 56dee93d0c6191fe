"""What a server serves: one engine, or several."""

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from kvasir.entrypoints.http.peers import Peers
from kvasir.errors import KvasirError
from kvasir.observability import Metrics, StatLoggers, make_tracer

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM


class Served(Protocol):
    """SEAM: what the server has to know of what it serves.

    Attributes:
        log_interval_s: seconds between two looks at `log_lines`; 0: none are wanted.
    """

    log_interval_s: float

    @property
    def names(self) -> Sequence[str]:
        """Of the models."""

    @property
    def is_alive(self) -> bool:
        """False once there is no point in going on."""

    @property
    def dead_error(self) -> str | None:
        """Why not."""

    def log_lines(self) -> list[str]:
        """What happened since the last call."""

    async def look(self) -> None:
        """Called once a second: notices what has died."""

    def shutdown(self, timeout_s: float) -> None:
        """Ends everything; a core that is not gone by then is killed."""


def make_metrics(engine: "AsyncLLM") -> Metrics:
    """Everything that looks on while the engine works, listening to it.

    Raises:
        ConfigError: traces are asked for and OpenTelemetry is not installed.
    """
    settings, name = engine.config.observability, engine.config.model.served_model_name[0]
    num_cores = engine.config.parallel.data_parallel_size
    metrics = Metrics(name, settings.metrics_prefix + ":", engine.admission, num_cores)
    metrics.tracer = make_tracer(settings.otlp_traces_endpoint, name)
    plugins = StatLoggers(name)
    metrics.stat_loggers = plugins if len(plugins) else None
    engine.add_stats_listener(metrics.on_scheduler_stats)
    engine.add_recovery_listener(metrics.on_recovery)
    engine.add_output_listener(metrics.timelines.on_core_output)
    return metrics


class ServedEngine:
    """One engine, with its metrics."""

    def __init__(self, engine: "AsyncLLM"):
        self._engine = engine
        self.metrics = make_metrics(engine)
        settings = engine.config.observability
        self.log_interval_s = 0.0 if settings.disable_log_stats else settings.log_stats_interval_s

    @property
    def names(self) -> Sequence[str]:
        return self._engine.config.model.served_model_name

    @property
    def is_alive(self) -> bool:
        return self._engine.is_alive

    @property
    def dead_error(self) -> str | None:
        return self._engine.dead_error

    def log_lines(self) -> list[str]:
        return self.metrics.line.take_all()

    async def look(self) -> None:
        with contextlib.suppress(KvasirError):  # a core that dies before the first request is noticed, too
            await self._engine.check_health()

    def shutdown(self, timeout_s: float) -> None:
        if self.metrics.tracer is not None:
            self.metrics.tracer.close()
        self._engine.shutdown(timeout_s)


class ServedFront(ServedEngine):
    """The same by one of several processes: the one that holds the engine is told our figures, and writes the log."""

    def __init__(self, engine: "AsyncLLM"):
        super().__init__(engine)
        self.log_interval_s = 0.0
        self.peers = Peers(engine.cores[0], self.metrics)

    async def look(self) -> None:
        await super().look()
        self.peers.report()
