"""`kvasir precompile [MODEL]`."""

from argparse import ArgumentTypeError
from collections.abc import Sequence


def run(argv: Sequence[str]) -> int:
    from kvasir.config import EngineArgs
    from kvasir.config.cli import OptionParser

    parser = OptionParser(
        "kvasir precompile",
        description="Compile, on a machine without a card, the kernels that a start of this model on one would.",
    )
    parser.add_argument(
        "model_tag", nargs="?", metavar="MODEL", help="Folder or hub id; the bundled model if left out."
    )
    parser.add_argument(
        "--capability", type=_capability, default=(9, 0), metavar="X.Y", help="Compute capability of the card: 9.0."
    )
    parser.add_argument(
        "--processors", type=_positive, default=132, metavar="N", help="Its multiprocessors: 132, as an H100 SXM has."
    )
    parser.add_argument(
        "--card-memory", type=_positive, default=80, metavar="GIB", help="Its memory: 80. From 70 GB on all are alike."
    )
    parser.add_argument("--no-progress", action="store_true", help="No progress bar.")
    EngineArgs.add_cli_args(parser)
    given = parser.parse_args(argv)

    from tqdm import tqdm

    from kvasir.assembly.precompile import Card, precompile

    card = Card(given.capability, given.processors, given.card_memory << 30)
    with tqdm(desc="Compiling", unit="kernel", disable=given.no_progress) as bar:

        def show(done: int, of: int) -> None:
            bar.total = of
            bar.update(done - bar.n)
            bar.refresh()

        made = precompile(EngineArgs.from_cli_args(given), card, show)
    for sentence in made.left_out:
        print(sentence)
    print(
        f"{made.kernels} kernels for compute capability {card.capability[0]}.{card.capability[1]} "
        f"({made.found} of them were there) in {', '.join(map(str, made.folders))}: "
        f"{made.num_bytes / 1e6:.1f} MB, {made.seconds:.1f} s."
    )
    return 0


def _capability(text: str) -> tuple[int, int]:
    major, point, minor = text.partition(".")
    if not (point and major.isdecimal() and minor.isdecimal() and len(minor) == 1 and 8 <= int(major) <= 12):
        raise ArgumentTypeError(f"{text!r} is not like 9.0, from 8.0 to 12.9")
    return int(major), int(minor)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 20:
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1 to {(1 << 20) - 1}")
    return int(text)
