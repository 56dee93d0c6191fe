"""`kvasir complete [prompt]`: one prompt, streamed to stdout."""

import sys
from collections.abc import Sequence

from kvasir.entrypoints.cli.terminal import make_parser, sampling_of, show, source_of
from kvasir.errors import UserError


def run(argv: Sequence[str]) -> int:
    parser = make_parser("complete", "Complete a prompt given as an argument or on standard input.")
    parser.add_argument("prompt", nargs="?", help="The text to go on from; standard input if left out.")
    parser.add_argument("--chat", action="store_true", help="Ask it as a question, through the chat template.")
    given = parser.parse_args(argv)
    prompt = given.prompt if given.prompt is not None else sys.stdin.read()
    if not prompt:
        raise UserError("there is no prompt: give one as an argument or on standard input.")
    source = source_of(given)
    try:
        if given.chat:
            show(source.chat([{"role": "user", "content": prompt}], sampling_of(given)))
        else:
            show(source.complete(prompt, sampling_of(given)))
    finally:
        source.close()
    return 0
