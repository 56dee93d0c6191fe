"""`kvasir serve --model-dir` from options to exit code."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kvasir.config import ObservabilityConfig
from kvasir.entrypoints.http.listener import bind, close, listen
from kvasir.entrypoints.http.server import Server, settings_of
from kvasir.entrypoints.http.tls import Tls
from kvasir.entrypoints.router.app import build_router
from kvasir.entrypoints.router.catalog import Catalog
from kvasir.entrypoints.router.pool import Bounds, ModelPool
from kvasir.entrypoints.router.starter import EngineStarter

if TYPE_CHECKING:
    from kvasir.config import EngineArgs, ServerArgs

_BATCH_PLACES = 256
"""Where max_num_seqs is not given; what an engine then has at least."""


class ServedModels:
    """What the server knows of several models. No model's death ends it."""

    is_alive = True
    dead_error = None

    def __init__(self, pool: ModelPool, settings: ObservabilityConfig):
        self._pool = pool
        self.log_interval_s = 0.0 if settings.disable_log_stats else settings.log_stats_interval_s

    @property
    def names(self) -> Sequence[str]:
        return [model.spec.name for model in self._pool.models()]

    def log_lines(self) -> list[str]:
        lines = []
        for model in self._pool.models():
            if model.metrics is not None:
                lines += [f"{model.spec.name}: {line}" for line in model.metrics.line.take_all()]
        return lines

    async def look(self) -> None:
        self._pool.notice_deaths()

    def shutdown(self, timeout_s: float) -> None:
        self._pool.shutdown(timeout_s)


def run_router(engine_args: "EngineArgs", server_args: "ServerArgs", tls: Tls | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    import uvloop

    catalog = Catalog(engine_args, server_args.model_dir, server_args.models_config)
    bounds = Bounds(
        server_args.models_max, server_args.models_memory, server_args.models_wait, server_args.models_max_waiting
    )
    observability = engine_args.section(ObservabilityConfig)
    settings = settings_of(server_args, observability)
    places = engine_args.max_num_seqs if isinstance(engine_args.max_num_seqs, int) else _BATCH_PLACES
    places *= engine_args.data_parallel_size
    sock = bind(server_args.host, server_args.port, server_args.uds)
    try:
        pool, app = build_router(catalog, EngineStarter(), bounds, settings, places)
        listen(sock)
    except BaseException:
        close(sock)
        raise
    server = Server(ServedModels(pool, observability), app, sock, server_args, tls)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(server.run())
