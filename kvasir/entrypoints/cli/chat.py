"""`kvasir chat [model]`: a conversation in the terminal."""

import sys
from collections.abc import Sequence
from typing import Any

from kvasir.entrypoints.cli.source import Message, Source
from kvasir.entrypoints.cli.terminal import make_parser, sampling_of, show, source_of
from kvasir.errors import KvasirError

_HELP = """/system TEXT  set the system message and start anew (no TEXT: remove it)
/reset        forget the conversation
/undo         forget the last question and its answer
/exit         leave (also Ctrl-D)"""


def run(argv: Sequence[str]) -> int:
    parser = make_parser("chat", "Talk to a model. /help lists what can be said besides questions.")
    parser.add_argument(
        "model_tag", nargs="?", metavar="MODEL", help="Folder or hub id; the bundled model if left out."
    )
    parser.add_argument("--system", help="System message.")
    given = parser.parse_args(argv)
    source = source_of(given)
    try:
        Conversation(source, sampling_of(given), given.system).run()
    finally:
        source.close()
    return 0


class Conversation:
    """Reads lines, keeps the history, prints answers."""

    def __init__(self, source: Source, sampling: dict[str, Any], system: str | None):
        self._source = source
        self._sampling = sampling
        self._system = system
        self._messages: list[Message] = []

    def run(self) -> None:
        terminal = sys.stdin.isatty()
        if terminal:
            _use_readline()
            print(f"{self._source.model}. /help for commands, /exit to leave.")
        while True:
            try:
                line = input("> " if terminal else "").strip()
            except EOFError:
                print() if terminal else None
                return
            except KeyboardInterrupt:
                print("\n(/exit leaves)")
                continue
            if line.startswith("/"):
                if not self._command(line):
                    return
            elif line:
                self._ask(line)

    def _ask(self, question: str) -> None:
        self._messages.append({"role": "user", "content": question})
        system = [{"role": "system", "content": self._system}] if self._system else []
        try:
            said = show(self._source.chat(system + self._messages, self._sampling))
        except KvasirError as e:  # too long, or the server is busy: the conversation goes on without this question
            self._messages.pop()
            print(f"{e}", file=sys.stderr)
            return
        self._messages.append({"role": "assistant", "content": said})

    def _command(self, line: str) -> bool:
        """False ends the conversation."""
        word, _, rest = line.partition(" ")
        if word in ("/exit", "/quit"):
            return False
        if word == "/reset":
            self._messages.clear()
        elif word == "/undo":
            del self._messages[-2:]
        elif word == "/system":
            self._system = rest.strip() or None
            self._messages.clear()
        else:
            print(_HELP)
        return True


def _use_readline() -> None:
    try:
        import readline  # noqa: F401  (importing it gives input() a history)
    except ImportError:
        pass
