"""Parsers by name: the families that are built in, and those that other packages bring.

A package offers a parser as an entry point of group `kvasir.tool_parsers` or `kvasir.reasoning_parsers`: a
`ToolFamily` or `ReasoningFamily`, or a function that makes a parser from what those are given.
"""

import re
from functools import cache
from importlib.metadata import entry_points

from kvasir.errors import ConfigError
from kvasir.parsers.families import REASONING_FAMILIES, TOOL_FAMILIES, ReasoningFamily, ToolFamily

TOOL_GROUP = "kvasir.tool_parsers"
REASONING_GROUP = "kvasir.reasoning_parsers"

_HERMES_CALL = re.compile(r'<tool_call>(?:\\n|\s)*\{\\?"name')


@cache
def tool_family(name: str) -> ToolFamily:
    if name in TOOL_FAMILIES:
        return TOOL_FAMILIES[name]
    found = _plugin(TOOL_GROUP, name, "--tool-call-parser", sorted(TOOL_FAMILIES))
    return found if isinstance(found, ToolFamily) else ToolFamily(found)


@cache
def reasoning_family(name: str) -> ReasoningFamily:
    if name in REASONING_FAMILIES:
        return REASONING_FAMILIES[name]
    found = _plugin(REASONING_GROUP, name, "--reasoning-parser", sorted(REASONING_FAMILIES))
    return found if isinstance(found, ReasoningFamily) else ReasoningFamily(found)


def detect_tool_family(chat_template: str | None) -> str | None:
    """Two are told from their templates, which show the model a call; other families are asked for by name."""
    if chat_template and "<|channel|>" in chat_template and "to=functions." in chat_template:
        return "openai"
    return "hermes" if chat_template and _HERMES_CALL.search(chat_template) else None


def _plugin(group: str, name: str, option: str, known: list[str]):  # noqa: ANN202  (a family of either kind)
    plugins = {point.name: point for point in entry_points(group=group)}
    if name not in plugins:
        names = ", ".join([*known, *sorted(plugins)])
        raise ConfigError(f"{option} {name!r} is not known; there are {names}. More can be installed as plugins.")
    try:
        found = plugins[name].load()
    except Exception as e:
        raise ConfigError(f"{option} {name!r}: the plugin {plugins[name].value} does not load: {e}") from e
    if not callable(found) and not isinstance(found, (ToolFamily, ReasoningFamily)):
        raise ConfigError(f"{option} {name!r}: {plugins[name].value} is neither a family nor a function.")
    return found
