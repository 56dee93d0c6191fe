"""Runs the app on a socket until a signal, then stops without cutting anybody off."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import uvicorn
from starlette.applications import Starlette

from kvasir.config.batch import BatchConfig
from kvasir.entrypoints.http.announce import announce
from kvasir.entrypoints.http.app import build_app
from kvasir.entrypoints.http.engine_state import NoPollingInAccessLog
from kvasir.entrypoints.http.guard.gate import Gate
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.listener import BACKLOG, close
from kvasir.entrypoints.http.protocol import BoundedHttpProtocol
from kvasir.entrypoints.http.served import Served, ServedEngine, ServedFront
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.http.tls import CHECK_EVERY_S, Tls
from kvasir.logger import get_logger

if TYPE_CHECKING:
    from kvasir.config import ObservabilityConfig, ServerArgs
    from kvasir.engine.async_llm import AsyncLLM

logger = get_logger(__name__)

_ABORT_GRACE_S = 2.0
_CORE_GRACE_S = 10.0
_ALIVE_CHECK_S = 1.0


def settings_of(args: "ServerArgs", observability: "ObservabilityConfig") -> ServerSettings:
    return ServerSettings(
        api_keys=args.api_keys(),
        admin_keys=tuple(args.admin_api_key),
        api_keys_file=args.api_keys_file,
        usage_db=args.usage_db,
        public_metrics=args.public_metrics,
        request_timeout_s=args.request_timeout,
        max_body_bytes=args.max_request_body,
        response_role=args.response_role,
        force_include_usage=args.enable_force_include_usage,
        tool_call_parser=args.tool_call_parser,
        reasoning_parser=args.reasoning_parser,
        responses_store_bytes=args.responses_store_bytes,
        responses_ttl_s=args.responses_ttl,
        trust_request_chat_template=args.trust_request_chat_template,
        default_chat_template_kwargs=args.default_chat_template_kwargs,
        profile=observability.profile is not None,
        web_page=not args.disable_web,
        batches=args.section(BatchConfig),
        allowed_origins=tuple(args.allowed_origins),
        allowed_methods=tuple(args.allowed_methods),
        allowed_headers=tuple(args.allowed_headers),
        log_requests=observability.enable_log_requests,
    )


class _Uvicorn(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals are ours: uvicorn would stop listening before the streams are done


def server_of(
    engine: "AsyncLLM", settings: ServerSettings, sock: socket.socket, args: "ServerArgs", tls: Tls | None = None
) -> "Server":
    """A server of one engine."""
    served = ServedEngine(engine)
    return Server(served, build_app(engine, settings, served.metrics), sock, args, tls)


def front_of(
    engine: "AsyncLLM", settings: ServerSettings, place: socket.socket, args: "ServerArgs", tls: Tls | None = None
) -> "Server":
    """One of several processes that are one server; the engine is the one of all."""
    served = ServedFront(engine)
    app = build_app(engine, settings, served.metrics, served.peers)
    return Server(served, app, place, args, tls, owns_place=False)


class Server:
    """One listening server: accept, answer, drain, stop.

    Args:
        owns_place: False where `sock` is another process's, who says where it is and closes it.
    """

    def __init__(
        self,
        served: Served,
        app: Starlette,
        sock: socket.socket,
        args: "ServerArgs",
        tls: Tls | None = None,
        *,
        owns_place: bool = True,
    ):
        self._served = served
        self._app = app
        self._has_page = not args.disable_web
        self._gate: Gate = app.state.gate
        self._owns_place = owns_place
        self._tls = tls
        self._sock = sock
        self._shutdown_timeout = args.shutdown_timeout
        self._uvicorn = _Uvicorn(_uvicorn_config(self._app, args, tls))
        self._signals = 0
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal, signum)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._sock]))
        chores = (self._announce(), self._watch_engine(), self._log_stats(), self._gate.run(), self._watch_files())
        helpers = [asyncio.create_task(c) for c in chores]
        stopping = asyncio.create_task(self._stop.wait())
        for worker in self._app.state.workers:
            worker.start()
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            self._app.state.inflight.draining = True  # new requests get 503 from here on; the socket still answers
            for worker in self._app.state.workers:
                await worker.stop()
            if not serving.done():
                await self._drain(self._app.state.inflight)
                self._uvicorn.should_exit = True
            await serving
        finally:
            died = not self._served.is_alive
            for task in (*helpers, stopping):
                task.cancel()
            if self._owns_place:
                close(self._sock)
            await self._gate.close()
            self._served.shutdown(_ABORT_GRACE_S if self._hurry.is_set() else _CORE_GRACE_S)
        logger.info("stopped")
        return 1 if died else 0

    def _on_signal(self, signum: int) -> None:
        self._signals += 1
        if self._signals > 1:
            logger.info("second %s: stopping now", signal.Signals(signum).name)
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # what is cut off now is no news
            self._hurry.set()
            self._uvicorn.force_exit = True
        else:
            logger.info("%s: stopping", signal.Signals(signum).name)
            self._stop.set()

    def _reload(self) -> None:
        """SIGHUP: keys and certificates are read again; whatever is broken stays as it was."""
        self._gate.reload()
        if self._tls is not None:
            self._tls.reload()

    async def _watch_files(self) -> None:
        while self._tls is not None:
            await asyncio.sleep(CHECK_EVERY_S)
            self._tls.reload_if_changed()

    async def _drain(self, inflight: Inflight) -> None:
        """Answers in flight may end; a balancer that asks meanwhile should see a sentence, not a closed socket."""
        timeout_s = self._shutdown_timeout if self._served.is_alive else 0.0
        if len(inflight):
            logger.info("draining: %d answers in flight, up to %g s", len(inflight), timeout_s)
        idle = asyncio.create_task(inflight.wait_idle(timeout_s))
        hurry = asyncio.create_task(self._hurry.wait())
        await asyncio.wait((idle, hurry), return_when=asyncio.FIRST_COMPLETED)
        for task in (idle, hurry):
            task.cancel()
        if len(inflight):
            logger.warning("ending %d answers that are not complete", inflight.abort_all())
            await inflight.wait_idle(_ABORT_GRACE_S)

    async def _announce(self) -> None:
        while not self._uvicorn.started:
            await asyncio.sleep(0.005)
        if not self._owns_place:
            return
        announce(
            self._served.names,
            self._sock,
            has_tls=self._tls is not None,
            has_page=self._has_page,
            has_keys=not self._gate.is_open,
        )

    async def _watch_engine(self) -> None:
        """A server without an engine must not linger: ended with an exit code, it gets restarted."""
        while self._served.is_alive:
            await self._served.look()
            await asyncio.sleep(_ALIVE_CHECK_S)
        logger.error("the engine died (%s): the server stops", self._served.dead_error)
        self._stop.set()

    async def _log_stats(self) -> None:
        while self._served.log_interval_s:
            await asyncio.sleep(self._served.log_interval_s)
            for line in self._served.log_lines():
                logger.info("%s", line)


def _uvicorn_config(app: Starlette, args: "ServerArgs", tls: Tls | None) -> uvicorn.Config:
    handlers = logging.getLogger("kvasir").handlers
    for name, level in (("uvicorn.error", logging.WARNING), ("uvicorn.access", logging.INFO)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = list(handlers), False
        log.setLevel(level)
    logging.getLogger("uvicorn.access").addFilter(NoPollingInAccessLog())
    return uvicorn.Config(
        app,
        loop="none",
        http=BoundedHttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=not args.disable_access_log,
        root_path=args.root_path,
        timeout_keep_alive=65,  # above the idle time of common balancers, which would else meet a closed connection
        timeout_graceful_shutdown=int(_ABORT_GRACE_S),
        backlog=BACKLOG,
        server_header=False,
        ssl_context_factory=None if tls is None else lambda config, default: tls.context,
    )
