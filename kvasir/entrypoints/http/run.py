"""`kvasir serve` from options to exit code. The HTTP stack is imported while the engine core loads its weights."""

import asyncio
import gc
import signal
import threading
from importlib import import_module
from typing import TYPE_CHECKING

from kvasir.entrypoints.http.listener import bind, close, listen

if TYPE_CHECKING:
    from kvasir.config import EngineArgs, ServerArgs
    from kvasir.engine.async_llm import AsyncLLM

_HTTP_STACK = ("kvasir.entrypoints.http.server", "uvloop")


def run_server(engine_args: "EngineArgs", server_args: "ServerArgs") -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code: 0, or 1 when the engine died."""
    from kvasir.entrypoints.http.guard.keys import load_ring
    from kvasir.entrypoints.http.structure import check_parsers
    from kvasir.entrypoints.http.tls import make_tls

    check_parsers(server_args.tool_call_parser, server_args.reasoning_parser)
    load_ring(server_args.api_keys(), server_args.admin_api_key, server_args.api_keys_file)
    tls = make_tls(server_args)
    if server_args.api_server_count > 1:  # each process reads keys and certificates again; they are known to be good
        signal.signal(signal.SIGTERM, _stop_starting)
        return import_module("kvasir.entrypoints.http.head").run_head(engine_args, server_args)
    if server_args.batch_dir is not None and "scheduling_policy" not in engine_args.given:
        engine_args.scheduling_policy = "priority"  # so that lines of batches wait for interactive requests
    if server_args.model_dir is not None or server_args.models_config is not None:
        from kvasir.entrypoints.router.run import run_router

        return run_router(engine_args, server_args, tls)
    sock = bind(server_args.host, server_args.port, server_args.uds)
    signal.signal(signal.SIGTERM, _stop_starting)
    try:
        engine = _start_engine(engine_args)
    except BaseException:
        close(sock)
        raise
    try:
        from kvasir.entrypoints.http.server import server_of, settings_of

        settings = settings_of(server_args, engine.config.observability)
        server = server_of(engine, settings, sock, server_args, tls)
        listen(sock)
    except BaseException:
        engine.shutdown()
        raise
    import uvloop

    gc.collect()
    gc.freeze()  # what start-up made lives as long as the process; later collections need not walk it
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(server.run())


def _start_engine(args: "EngineArgs") -> "AsyncLLM":
    import kvasir.assembly.front  # noqa: F401  (what starts the core comes first, so that the thread delays nothing)
    from kvasir.engine.async_llm import AsyncLLM

    threading.Thread(target=lambda: [import_module(name) for name in _HTTP_STACK], daemon=True).start()
    return AsyncLLM.from_engine_args(args)


def _stop_starting(signum: int, frame: object) -> None:
    raise SystemExit(0)
