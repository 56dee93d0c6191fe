"""A server process over a scripted engine: `python -m tests.http.fake_server SHUTDOWN_TIMEOUT [FLAGS]`; prints its
port.
"""

import argparse
import asyncio
import sys
import threading

import uvloop

from kvasir.config import ObservabilityConfig, ServerArgs
from kvasir.entrypoints.http.listener import bind, listen
from kvasir.entrypoints.http.server import server_of, settings_of
from kvasir.entrypoints.http.tls import make_tls
from tests.http.fake_engine import FakeEngine, Script


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    ServerArgs.add_cli_args(parser)
    given = parser.parse_args()
    args = ServerArgs.from_cli_args(given)
    args.port, args.shutdown_timeout = 0, given.seconds
    engine = FakeEngine(Script(text="x" * 100, delay_s=0.02))
    sock = bind(args.host, 0, None)
    listen(sock)
    print(sock.getsockname()[1], flush=True)

    def die_when_told() -> None:
        sys.stdin.readline()
        engine.is_alive, engine.dead_error = False, "the test said so"

    threading.Thread(target=die_when_told, daemon=True).start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(server_of(engine, settings_of(args, ObservabilityConfig()), sock, args, make_tls(args)).run())  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
