"""One option, declared once: default, help and check sit on the dataclass field; the flag, the YAML key,
the help text, the row in the docs and the validation all come from there.

    max_num_seqs: int = option(AUTO, help="Requests in one step.", check=at_least(1))

The annotation is the type after resolution. `AUTO` as the default means that a rule in
`kvasir.assembly.rules` fills it in.
"""

import dataclasses
import json
import os
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kvasir.config.units import parse_count
from kvasir.errors import ConfigError

AUTO: Any = "auto"
"""Stands for "let the rules decide"; never present in a resolved config."""

Check = Callable[[Any], str | None]
"""Returns what is wrong with a value and what to do, or None."""

HIDDEN = "(hidden)"
"""Printed in place of a secret."""
_KEY = "kvasir.option"


@dataclass(frozen=True)
class Option:
    """What is known of one option; the value of a `secret` one is never printed.

    `kind` is one of str, int, float, bool, list, ints, json.
    """

    name: str
    section: str
    kind: str
    default: Any
    help: str
    nullable: bool
    flag: str
    aliases: tuple[str, ...] = ()
    short: str | None = None
    choices: tuple[str, ...] | None = None
    check: Check | None = None
    convert: Callable[[Any], Any] | None = None
    metavar: str | None = None
    unit: str | None = None
    affects_graph: bool = False
    secret: bool = False

    @property
    def flags(self) -> tuple[str, ...]:
        return (*((self.short,) if self.short else ()), self.flag, *self.aliases)

    @property
    def is_auto(self) -> bool:
        return isinstance(self.default, str) and self.default == AUTO

    def read(self, value: Any) -> Any:
        """Brings what a user wrote (Python, YAML or command line) to the option's type, and checks it.

        Raises:
            ConfigError: the text has the option, the value, the bound and what to do.
        """
        if self.convert is not None and value is not None:
            value = self.convert(value)
        if value is None:
            return self.default if not self.nullable else None
        if self.is_auto and isinstance(value, str) and value.lower() == AUTO:
            return AUTO
        value = self._typed(value)
        if self.choices is not None and value not in self.choices:
            raise self._wrong(value, f"must be one of {', '.join(self.choices)}")
        complaint = self.check(value) if self.check is not None else None
        if complaint:
            raise self._wrong(value, complaint)
        return value

    def _typed(self, value: Any) -> Any:
        try:
            return _READERS[self.kind](value)
        except (TypeError, ValueError) as error:
            raise self._wrong(value, f"must be {_KIND_NAMES[self.kind]} ({error})") from None

    def _wrong(self, value: Any, complaint: str) -> ConfigError:
        shown = HIDDEN if self.secret else _shorten(value)
        return ConfigError(f"{self.name} ({self.flag}) is {shown}: it {complaint}.", param=self.name)


def option(
    default: Any,
    *,
    help: str,
    flag: str | None = None,
    aliases: tuple[str, ...] = (),
    short: str | None = None,
    choices: tuple[str, ...] | None = None,
    check: Check | None = None,
    convert: Callable[[Any], Any] | None = None,
    metavar: str | None = None,
    unit: str | None = None,
    affects_graph: bool = False,
    secret: bool = False,
) -> Any:
    """Declares an option as a dataclass field. See `Option` for the meaning of each part."""
    metadata = {_KEY: {k: v for k, v in locals().items() if k != "default"}}
    if isinstance(default, (list, dict)):
        shared = default
        return dataclasses.field(default_factory=lambda: type(shared)(shared), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


_KNOWN: dict[type, dict[str, Option]] = {}


def options_of(section: type) -> dict[str, Option]:
    """The options of a section dataclass, in the order of declaration. Fields without `option()` are not options."""
    if section not in _KNOWN:
        _KNOWN[section] = _collect(section)
    return _KNOWN[section]


def _collect(section: type) -> dict[str, Option]:
    hints = typing.get_type_hints(section)
    found = {}
    for field in dataclasses.fields(section):
        parts = dict(field.metadata.get(_KEY) or {})
        if not parts:
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        kind, nullable = _kind(hints[field.name])
        parts["flag"] = parts["flag"] or "--" + field.name.replace("_", "-")
        found[field.name] = Option(
            name=field.name, section=section_name(section), kind=kind, nullable=nullable, default=default, **parts
        )
    return found


def section_name(section: type) -> str:
    """`SchedulerConfig` -> `"scheduler"`."""
    return section.__name__.removesuffix("Config").lower()


def at_least(low: float) -> Check:
    return lambda value: f"must be at least {low}" if value < low else None


def between(low: float, high: float) -> Check:
    return lambda value: f"must be between {low} and {high}" if not low <= value <= high else None


def fraction(value: float) -> str | None:
    """Check for a share of something: above 0, at most 1."""
    return None if 0.0 < value <= 1.0 else "must be above 0 and at most 1; 0.9 uses nine tenths"


def power_of_two(high: int) -> Check:
    def check(value: int) -> str | None:
        if 1 <= value <= high and value & (value - 1) == 0:
            return None
        return f"must be a power of two from 1 to {high}; 16 suits most models"

    return check


def only(allowed: Any, sentence: str) -> Check:
    """Check for an option whose other values are reserved: `sentence` says why, and what to do."""
    return lambda value: None if value == allowed else sentence


def _kind(hint: Any) -> tuple[str, bool]:
    nullable = False
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        parts = [p for p in typing.get_args(hint) if p is not type(None)]
        nullable = len(parts) < len(typing.get_args(hint))
        (hint,) = parts
    origin = typing.get_origin(hint) or hint
    if typing.get_args(hint) == (int,):
        return "ints", nullable
    return {list: "list", dict: "json"}.get(origin) or origin.__name__, nullable


def _read_str(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise TypeError(f"got {type(value).__name__}")
    return value


def _read_int(value: Any) -> int:
    if isinstance(value, str):
        return parse_count(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise TypeError(f"got {type(value).__name__}")
    return int(value)


def _read_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"got {type(value).__name__}")
    number = float(value)
    if number != number:
        raise ValueError("not a number")
    return number


def _read_bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TypeError(f"got {type(value).__name__}")
    return value


def _read_list(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"got {type(value).__name__}")
    return [_read_str(v) for v in value]


def _read_json(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, dict):
        raise TypeError(f"got {type(value).__name__}")
    return dict(value)


def _read_ints(value: Any) -> list[int]:
    """Also "1,2,4", and the words of a command line."""
    words = [value] if isinstance(value, (str, int)) else list(value)
    return [
        _read_int(part)
        for word in words
        for part in (word.replace(",", " ").split() if isinstance(word, str) else [word])
    ]


_READERS: dict[str, Callable[[Any], Any]] = {
    "str": _read_str,
    "int": _read_int,
    "float": _read_float,
    "bool": _read_bool,
    "list": _read_list,
    "ints": _read_ints,
    "json": _read_json,
}
_KIND_NAMES = {
    "str": "a text",
    "int": "a whole number such as 4096 or 32k",
    "float": "a number",
    "bool": "true or false",
    "list": "a text or a list of texts",
    "ints": "a list of whole numbers such as 1,2,4",
    "json": "a JSON object",
}


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
