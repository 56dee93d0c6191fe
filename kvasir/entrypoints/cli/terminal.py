"""Options and output shared by `chat` and `complete`."""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from kvasir.config import EngineArgs
from kvasir.config.cli import OptionParser
from kvasir.entrypoints.cli.source import LocalSource, RemoteSource, Source

_SAMPLING: tuple[tuple[str, type, str], ...] = (
    ("temperature", float, "0 takes the likeliest token each time."),
    ("top_p", float, "Sample among the likeliest tokens that have this much probability together."),
    ("top_k", int, "Sample among this many likeliest tokens; 0 turns it off."),
    ("min_p", float, "Leave out tokens less likely than this share of the likeliest."),
    ("max_tokens", int, "Longest answer."),
    ("repetition_penalty", float, "Above 1 discourages words that were used."),
)


def make_parser(command: str, description: str) -> argparse.ArgumentParser:
    """Flags of the sampling, of a server to ask, and of an engine of one's own."""
    parser = OptionParser(f"kvasir {command}", description=description)
    remote = parser.add_argument_group("server", "Ask a running server instead of loading a model")
    remote.add_argument("--url", help="Its address, such as http://localhost:8000.")
    remote.add_argument("--key", help="Its API key; also OPENAI_API_KEY.")
    sampling = parser.add_argument_group("sampling", "The model's own defaults hold where nothing is given")
    for name, kind, text in _SAMPLING:
        sampling.add_argument("--" + name.replace("_", "-"), dest="sample_" + name, type=kind, metavar="X", help=text)
    sampling.add_argument("--sample-seed", type=int, metavar="N", help="Makes sampled answers repeatable.")
    EngineArgs.add_cli_args(parser)
    return parser


def sampling_of(given: argparse.Namespace) -> dict[str, Any]:
    values = {name: getattr(given, "sample_" + name) for name, _, _ in _SAMPLING} | {"seed": given.sample_seed}
    return {name: value for name, value in values.items() if value is not None}


def source_of(given: argparse.Namespace) -> Source:
    if given.url:
        model = getattr(given, "model_tag", None) or getattr(given, "model", None)
        return RemoteSource(given.url, model, given.key)
    return LocalSource(EngineArgs.from_cli_args(given))


def show(pieces: Iterator[str]) -> str:
    """Prints text as it comes; returns it. Ctrl-C ends the answer, not the program."""
    said = []
    try:
        for piece in pieces:
            said.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    except KeyboardInterrupt:
        pieces.close()  # type: ignore[attr-defined]
        sys.stdout.write(" ...")
    sys.stdout.write("\n")
    sys.stdout.flush()
    return "".join(said)
