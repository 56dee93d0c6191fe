"""Finds the subcommand and runs it. `--help` and `--version` answer before anything heavy is imported."""

import sys
from collections.abc import Sequence
from importlib import import_module

# name -> (module with `run(argv) -> exit code`, one line of help). Names, not imports: the table costs nothing,
# and kvasir.bench ranks above this package.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("kvasir.entrypoints.cli.serve", "OpenAI-compatible HTTP server"),
    "chat": ("kvasir.entrypoints.cli.chat", "talk to a model in the terminal"),
    "complete": ("kvasir.entrypoints.cli.complete", "complete one prompt"),
    "run-batch": ("kvasir.entrypoints.cli.run_batch", "answer a JSONL file of requests"),
    "bench": ("kvasir.bench.cli", "measure: throughput, latency, serve, startup"),
    "precompile": ("kvasir.entrypoints.cli.precompile", "compile a card's kernels without one, for images"),
    "env": ("kvasir.entrypoints.cli.env", "versions, devices and backends of this machine"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `kvasir` command."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version", "version"):
        from kvasir import __version__

        print(f"kvasir {__version__}")
        return 0
    if words[0] not in COMMANDS:
        print(f"kvasir: {words[0]!r} is no command{_did_you_mean(words[0])}\n\n{_help()}", file=sys.stderr)
        return 2
    return _run(words[0], words[1:])


def _run(command: str, words: list[str]) -> int:
    from kvasir.errors import ConfigError, KvasirError

    try:
        return import_module(COMMANDS[command][0]).run(words)
    except ConfigError as e:
        print(f"kvasir {command}: {e}", file=sys.stderr)
        return 2
    except KvasirError as e:
        print(f"kvasir {command}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output (head, less) has seen enough
        sys.stderr.close()
        return 0


def _help() -> str:
    rows = "\n".join(f"  {name:<11s}{text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: kvasir COMMAND [options]\n\n"
        "An LLM inference and serving engine. Without a model, commands use the small one that ships with it.\n\n"
        f"commands:\n{rows}\n\n"
        "options:\n  --version  print the version\n  --help     print this\n\n"
        "'kvasir COMMAND --help' explains a command."
    )


def _did_you_mean(word: str) -> str:
    import difflib

    near = difflib.get_close_matches(word, COMMANDS, n=1)
    return f"; did you mean {near[0]!r}?" if near else "."


if __name__ == "__main__":
    sys.exit(main())
