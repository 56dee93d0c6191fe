"""`kvasir serve [model]`."""

from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    from kvasir.config import EngineArgs, ServerArgs
    from kvasir.config.cli import OptionParser

    parser = OptionParser("kvasir serve", description="Serve a model over an OpenAI-compatible HTTP API.")
    parser.add_argument(
        "model_tag", nargs="?", metavar="MODEL", help="Folder or hub id; the bundled model if left out."
    )
    EngineArgs.add_cli_args(parser, include_server=True)
    given = parser.parse_args(argv)
    engine_args, server_args = EngineArgs.from_cli_args(given), ServerArgs.from_cli_args(given)

    from kvasir.entrypoints.http.run import run_server

    return run_server(engine_args, server_args)
