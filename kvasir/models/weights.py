"""Checkpoint names -> parameters, as data. A model lists rules; `place` applies them; the loader does the rest.

Rules are tried in order on the name as it stands: Rename changes it and goes on, Stack and Skip and Tie decide.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Rename:
    """Names that start with `prefix` start with `to` instead."""

    prefix: str
    to: str


@dataclass(frozen=True)
class Stack:
    """Modules that live stacked in one: {"q_proj": "q"} sends `...q_proj.weight` to part "q" of `...into.weight`."""

    into: str
    parts: dict[str, str]


@dataclass(frozen=True)
class Skip:
    """Names that match this regular expression anywhere are not loaded."""

    pattern: str


@dataclass(frozen=True)
class Tie:
    """`name` is the very parameter `source` when the model ties its embeddings; a copy in the file is ignored."""

    name: str
    source: str


Rule = Rename | Stack | Skip | Tie


@dataclass(frozen=True)
class Place:
    """A tensor's destination: a parameter's name and the part of it ("" for all)."""

    parameter: str
    part: str = ""


def place(name: str, rules: tuple[Rule, ...], tied: bool) -> Place | None:
    """Where the checkpoint tensor `name` goes; None when it is not wanted."""
    for rule in rules:
        match rule:
            case Rename(prefix, to) if name.startswith(prefix):
                name = to + name.removeprefix(prefix)
            case Skip(pattern) if re.search(pattern, name):
                return None
            case Tie(tie, _) if tied and name == tie:
                return None
            case Stack(into, parts):
                owner, _, leaf = name.rpartition(".")
                module, _, last = owner.rpartition(".")
                if last in parts:
                    return Place(f"{module}.{into}.{leaf}", parts[last])
    return Place(name)


def checkpoint_name(parameter: str, part: str, rules: tuple[Rule, ...]) -> str:
    """The way back, for messages: the name by which a checkpoint would have this part."""
    if not part:
        return parameter
    owner, _, leaf = parameter.rpartition(".")
    module, _, last = owner.rpartition(".")
    for rule in rules:
        if isinstance(rule, Stack) and rule.into == last:
            for theirs, ours in rule.parts.items():
                if ours == part:
                    return f"{module}.{theirs}.{leaf}"
    return f"{parameter}[{part}]"
