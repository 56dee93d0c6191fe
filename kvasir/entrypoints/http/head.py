"""`kvasir serve --api-server-count N`: the process that holds the engine and keeps N processes that answer HTTP.

It starts the cores and the fronts, connects them through a `Hub`, starts a front again that died, and passes signals
on. It answers no HTTP itself.
"""

import asyncio
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvasir.assembly.facts import gather_facts
from kvasir.assembly.front import starting_cores, wait_for_cores
from kvasir.assembly.resolve import resolve
from kvasir.config import KvasirConfig
from kvasir.engine.async_llm import AsyncLLM
from kvasir.engine.hub import Hub
from kvasir.engine.supervisor.budget import RestartBudget
from kvasir.entrypoints.http.announce import announce
from kvasir.entrypoints.http.api_process import FrontSettings
from kvasir.entrypoints.http.listener import bind_many, close
from kvasir.entrypoints.http.peers import SharedFigures
from kvasir.errors import ConfigError
from kvasir.logger import get_logger
from kvasir.messages import Ready, wire
from kvasir.observability import Metrics, StatLoggers
from kvasir.utils import frames
from kvasir.utils.startup import StartupReport

if TYPE_CHECKING:
    from kvasir.config import EngineArgs, ServerArgs

logger = get_logger(__name__)

MAX_FRONT_RESTARTS = 10
"""Of all fronts within ten minutes; one more death ends the server."""
_STOP_GRACE_S = 5.0
_ALIVE_CHECK_S = 0.5
_CORE_GRACE_S = 10.0


@dataclass
class Front:
    """One process that answers HTTP, and our end of the socket to it."""

    process: subprocess.Popen[bytes]
    sock: socket.socket


class FrontSpawner:
    """Starts front number i on its listening place, again if need be."""

    def __init__(self, config: KvasirConfig, args: "ServerArgs", places: list[socket.socket]):
        self._config = config
        self._server = {name: getattr(args, name) for name in args.options()}
        self.places = places

    def spawn(self, index: int) -> Front:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        fds = (theirs.fileno(), self.places[index].fileno())
        command = [sys.executable, "-m", "kvasir.entrypoints.http.api_process", *map(str, fds)]
        process = subprocess.Popen(command, pass_fds=fds, stdin=subprocess.DEVNULL, start_new_session=True)
        theirs.close()
        settings = FrontSettings(self._config, self._server, index, len(self.places))
        frames.send(ours, settings.encode())
        return Front(process, ours)

    def give_up(self, index: int) -> None:
        """Nobody listens here any more: the kernel must send new connections to the others, while they drain."""
        place = self.places[index]
        if place.family != socket.AF_UNIX:  # that one is the place of all
            close(place)


def run_head(engine_args: "EngineArgs", server_args: "ServerArgs") -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code: 0, or 1 when the engine died."""
    import uvloop

    server_args = _only_what_can_be_shared(server_args)
    report = StartupReport.begin()
    places = bind_many(server_args.host, server_args.port, server_args.uds, server_args.api_server_count)
    fronts: list[Front] = []
    try:
        resolved = resolve(engine_args, usage="server", facts=gather_facts(engine_args))
        report.mark("configuration")
        spawner = FrontSpawner(resolved.config, server_args, places)
        with starting_cores(resolved.config) as cores:
            for index in range(len(places)):
                fronts.append(spawner.spawn(index))
            ready = wait_for_cores(cores, resolved.config, report)
    except BaseException:
        for front in fronts:
            front.process.kill()
        for place in set(places):  # a Unix socket is the same one for all
            close(place)
        raise
    engine = AsyncLLM(resolved.config, cores, ready, None, None)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Head(engine, ready, spawner, fronts, server_args).run())


class Head:
    """Keeps the fronts until it is told to stop, or the engine is gone."""

    def __init__(self, engine: AsyncLLM, ready: Ready, spawner: FrontSpawner, fronts: list[Front], args: "ServerArgs"):
        settings, name = engine.config.observability, engine.config.model.served_model_name[0]
        metrics = Metrics(name, settings.metrics_prefix + ":", None, len(engine.cores))
        plugins = StatLoggers(name)
        metrics.stat_loggers = plugins if len(plugins) else None
        engine.add_stats_listener(metrics.on_scheduler_stats)
        engine.add_recovery_listener(metrics.on_recovery)
        self._engine = engine
        self._ready = wire.encode(ready)
        self._spawner = spawner
        self._fronts = fronts
        self._figures = SharedFigures(metrics)
        self._hub = Hub(engine, self._figures.calls())
        self._budget = RestartBudget(MAX_FRONT_RESTARTS)
        self._args = args
        self._stop = asyncio.Event()
        self._failed = False

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal, signum)
        loop.add_signal_handler(signal.SIGHUP, self._tell_fronts, signal.SIGHUP)
        await self._engine.check_health()
        keepers = [asyncio.create_task(self._keep(i)) for i in range(len(self._fronts))]
        helpers = [asyncio.create_task(c) for c in (self._watch_engine(), self._log_stats())]
        args = self._args
        announce(
            self._engine.config.model.served_model_name,
            self._spawner.places[0],
            has_tls=bool(args.ssl_certfile),
            has_page=not args.disable_web,
            has_keys=bool(args.api_keys()),
            num_processes=len(self._fronts),
        )
        try:
            await self._stop.wait()
            self._tell_fronts(signal.SIGTERM)
            await asyncio.wait(keepers, timeout=self._args.shutdown_timeout + _STOP_GRACE_S)
        finally:
            died = self._failed or not self._engine.is_alive
            for front in self._fronts:
                if front.process.poll() is None:
                    front.process.kill()
            for task in (*keepers, *helpers):
                task.cancel()
            for place in set(self._spawner.places):
                close(place)
            self._engine.shutdown(_CORE_GRACE_S)
        logger.info("stopped")
        return 1 if died else 0

    async def _keep(self, index: int) -> None:
        """Front number `index`, and those that come after it."""
        while True:
            front = self._fronts[index]
            frames.send(front.sock, self._ready)
            await self._hub.serve(front.sock, index)
            code = await asyncio.to_thread(front.process.wait)
            self._figures.forget(index)
            if self._stop.is_set():
                self._spawner.give_up(index)
                return
            if not self._budget.take():
                logger.error(
                    "API process %d ended with exit code %s; there were %d restarts in ten minutes: the server stops",
                    index, code, MAX_FRONT_RESTARTS,
                )  # fmt: skip
                self._failed = True
                self._stop.set()
                return
            logger.warning("API process %d ended with exit code %s and is started again", index, code)
            self._fronts[index] = self._spawner.spawn(index)

    def _on_signal(self, signum: int) -> None:
        """The second one makes the fronts stop at once, as one of their own does."""
        logger.info("%s: stopping", signal.Signals(signum).name)
        if self._stop.is_set():
            self._tell_fronts(signal.SIGTERM)
        self._stop.set()

    def _tell_fronts(self, signum: int) -> None:
        for front in self._fronts:
            if front.process.poll() is None:
                front.process.send_signal(signum)

    async def _watch_engine(self) -> None:
        while self._engine.is_alive:
            await asyncio.sleep(_ALIVE_CHECK_S)
        logger.error("the engine died (%s): the server stops", self._engine.dead_error)
        self._stop.set()

    async def _log_stats(self) -> None:
        settings = self._engine.config.observability
        while not settings.disable_log_stats:
            await asyncio.sleep(settings.log_stats_interval_s)
            line = self._figures.metrics.line.take()
            if line is not None:
                logger.info("%s", line)


def _only_what_can_be_shared(args: "ServerArgs") -> "ServerArgs":
    """What one process must know of the others' requests is refused, or off when nobody asked for it by name.

    Raises:
        ConfigError: such an option is set.
    """
    for names, why, fix in _NOT_SHARED:
        for name in names:
            if getattr(args, name):
                raise ConfigError(
                    f"--{name.replace('_', '-')} does not go together with --api-server-count "
                    f"{args.api_server_count}: {why}. Use --api-server-count 1{fix}.",
                    param=name,
                )
    if args.responses_store_bytes:
        logger.info("responses are not stored: with several API processes the next request may come to another one")
    values = {name: getattr(args, name) for name in args.options()}
    return type(args)(**values | {"responses_store_bytes": 0})


_NOT_SHARED = (
    (
        ("api_keys_file", "usage_db", "admin_api_key"),
        "limits, counters and a pause would hold in one process and not in the others",
        ", or --api-key",
    ),
    (
        ("batch_dir",),
        "the process that runs the batches does not see the requests of the others, and could not make room for them",
        "",
    ),
    (("model_dir", "models_config"), "each process would load models of its own", ""),
)
"""Options, why several processes cannot have them, and what else helps."""
