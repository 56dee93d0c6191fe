"""Command-line flags out of the option declarations."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from kvasir.config.option import Option, options_of, section_name
from kvasir.config.vllm_names import FOREIGN, ForeignName
from kvasir.logger import log_once


class OptionParser(argparse.ArgumentParser):
    """An ArgumentParser that takes `--max_num_seqs` for `--max-num-seqs` and knows what an unknown flag may mean."""

    def __init__(self, *args: Any, **kwargs: Any):
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        given = sys.argv[1:] if args is None else list(args)
        return super().parse_known_args([_with_dashes(word) for word in given], namespace)

    def error(self, message: str) -> NoReturn:
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            word = message.removeprefix(prefix).split()[0].split("=")[0]
            flags = [flag for parser in _family(self) for flag in parser._option_string_actions]
            import difflib

            near = difflib.get_close_matches(word, flags, n=1, cutoff=0.7)
            message += f"; did you mean {near[0]}?" if near else ""
        super().error(message)


def add_flags(parser: argparse.ArgumentParser, sections: Sequence[type]) -> None:
    """One flag per option, in one group per section. What the user leaves out is absent from the namespace."""
    taken = parser._option_string_actions
    if "--config" not in taken:
        parser.add_argument(
            "--config", metavar="FILE", default=argparse.SUPPRESS, help="YAML file of options; flags win over it."
        )
    for section in sections:
        first_line = (section.__doc__ or "").strip().splitlines()[0]
        group = parser.add_argument_group(section_name(section), first_line)
        for option in options_of(section).values():
            _add_flag(group, option)
    for row in FOREIGN.values():
        if row.name != "config" and "--" + row.name.replace("_", "-") not in taken:
            _add_foreign(parser, row)


def help_text(option: Option) -> str:
    """The option's help with its default; also used by the docs."""
    if option.default is None or option.default in ("", [], {}):
        return option.help
    shown = ("off", "on")[option.default] if isinstance(option.default, bool) else option.default
    return f"{option.help} [{shown}]"


def _add_flag(group: Any, option: Option) -> None:
    parts: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    text = help_text(option).replace("%", "%%")
    if option.kind == "bool":
        negative = "--no-" + option.flag.removeprefix("--")
        hidden = option.default is False  # nobody needs to read how to turn off what is off
        group.add_argument(*option.flags, action="store_true", help=text, **parts)
        group.add_argument(
            negative, action="store_false", help=argparse.SUPPRESS if hidden else f"Turns {option.flag} off.", **parts
        )
        return
    parts["metavar"] = option.metavar or _metavar(option)
    if option.kind in ("list", "ints"):
        parts |= {"nargs": "+", "action": "extend"}  # words after one flag and repeated flags both count
    group.add_argument(*option.flags, help=text, **parts)


def _metavar(option: Option) -> str:
    if option.choices:
        choices = ("auto", *option.choices) if option.is_auto else option.choices
        return "{" + ",".join(choices) + "}"
    return {"int": "N", "float": "X", "json": "JSON"}.get(option.kind, "TEXT")


class _ForeignAction(argparse.Action):
    """Takes another engine's flag: ignores it with a line in the log, or ends with the sentence that says why."""

    def __init__(self, row: ForeignName, **parts: Any):
        super().__init__(**parts)
        self.row = row

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        value = True if self.nargs == 0 else values
        if self.row.accepts_quietly(value):
            return
        if self.row.verdict == "refused":
            parser.error(f"{option_string} cannot be had: {self.row.sentence}.")
        log_once("kvasir.config", logging.INFO, f"{option_string} is ignored: {self.row.sentence}.")


def _add_foreign(parser: argparse.ArgumentParser, row: ForeignName) -> None:
    parser.add_argument(
        "--" + row.name.replace("_", "-"),
        action=_ForeignAction,
        row=row,
        nargs=0 if row.is_switch else None,
        dest=argparse.SUPPRESS,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def _with_dashes(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _family(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parser and those of its subcommands."""
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found += [child for sub in action.choices.values() for child in _family(sub)]
    return found
