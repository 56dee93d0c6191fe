"""Answers in a given shape: schemas, patterns, grammars."""

from dataclasses import dataclass
from typing import Any

from kvasir.config.option import option

BACKENDS = ("auto", "guidance", "xgrammar", "outlines", "lm-format-enforcer")
_SWITCHES = ("disable_fallback", "disable_any_whitespace", "disable_additional_properties")


def _check(value: dict[str, Any]) -> str | None:
    unknown = sorted(set(value) - {"backend", *_SWITCHES})
    if unknown:
        return f"may hold backend, {', '.join(_SWITCHES)}; {unknown[0]} is none of them"
    if value.get("backend", "auto") not in BACKENDS:
        return f"must have one of {', '.join(BACKENDS)} as its backend"
    wrong = [name for name in _SWITCHES if not isinstance(value.get(name, False), bool)]
    return f"must have true or false for {wrong[0]}" if wrong else None


@dataclass(frozen=True)
class StructuredConfig:
    """Answers in a given shape: schemas, patterns, grammars."""

    structured_outputs_config: dict[str, Any] = option(
        {},
        help='JSON with what holds for every request: {"disable_any_whitespace": true} for JSON without blanks, '
        '{"disable_additional_properties": true} for objects without keys that their schema does not name. "backend" '
        "is taken for vLLM's sake: all grammars are read by llguidance.",
        metavar="JSON",
        check=_check,
    )
