"""What shape a caller wants an answer to have. Kinds and sizes are checked here, grammars where they are read."""

from typing import Any

import msgspec

from kvasir.errors import UserError

MAX_STRUCTURE_BYTES = 262_144
"""Longest schema, pattern, grammar or list of choices, as JSON."""
MAX_CHOICES = 10_000
MAX_STRUCTURE_DEPTH = 64
MAX_WHITESPACE_PATTERN_CHARS = 256

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")


class StructuredOutputsParams(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What an answer must be: exactly one of the first six; the same fields as vLLM's class of this name.

    Attributes:
        json: a JSON schema, as an object or as its text; a pydantic model stands for its schema.
        regex: a regular expression that the whole answer matches.
        choice: the answers to choose from.
        grammar: a context-free grammar, in Lark's notation or as `::=` rules.
        json_object: any JSON object.
        structural_tag: text, schemas and patterns put together (docs/features/structured-outputs.md).
        disable_any_whitespace: JSON without a blank between its parts.
        disable_additional_properties: objects of a schema that does not say otherwise have no other keys.
        whitespace_pattern: a regular expression for what may stand between the parts of JSON.

    Raises:
        UserError: none or several kinds, a wrong type, or too large.
    """

    json: Any = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def __post_init__(self) -> None:
        if hasattr(self.json, "model_json_schema"):
            self.json = self.json.model_json_schema()
        self.json = _object("json", self.json)
        self.structural_tag = _object("structural_tag", self.structural_tag)
        given = [kind for kind in KINDS if getattr(self, kind) not in (None, False)]
        if len(given) != 1:
            raise UserError(
                f"structured_outputs takes exactly one of {', '.join(KINDS)}; got {', '.join(given) or 'none'}.",
                param="structured_outputs",
            )
        for name in ("regex", "grammar"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise UserError(f"{name} must be a text that is not empty, got {value!r:.80}.", param=name)
        self._check_choice()
        self._check_whitespace()
        _check_size(given[0], getattr(self, given[0]))

    @property
    def kind(self) -> str:
        return next(kind for kind in KINDS if getattr(self, kind) not in (None, False))

    def _check_choice(self) -> None:
        if self.choice is None:
            return
        if not isinstance(self.choice, (list, tuple)) or not 0 < len(self.choice) <= MAX_CHOICES:
            size = len(self.choice) if isinstance(self.choice, (list, tuple)) else type(self.choice).__name__
            raise UserError(f"choice must be a list of 1 to {MAX_CHOICES} texts, got {size}.", param="choice")
        self.choice = list(self.choice)
        for text in self.choice:
            if not isinstance(text, str) or not text:
                raise UserError(f"choice must hold texts that are not empty, got {text!r:.80}.", param="choice")

    def _check_whitespace(self) -> None:
        pattern = self.whitespace_pattern
        if pattern is None:
            return
        if not isinstance(pattern, str) or not 0 < len(pattern) <= MAX_WHITESPACE_PATTERN_CHARS:
            raise UserError(
                f"whitespace_pattern must have 1 to {MAX_WHITESPACE_PATTERN_CHARS} characters, got {pattern!r:.80}.",
                param="whitespace_pattern",
            )


GuidedDecodingParams = StructuredOutputsParams
"""The name that vLLM gave it before."""


def _object(name: str, value: Any) -> dict[str, Any] | None:
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UserError(f"{name} is no valid JSON: {error}.", param=name) from None
    if value is not None and not isinstance(value, dict):
        raise UserError(f"{name} must be an object or its JSON text, got {value!r:.80}.", param=name)
    return value


def _check_size(name: str, value: Any) -> None:
    _check_depth(name, value)
    try:
        size = len(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{name} cannot be written as JSON: {error}.", param=name) from None
    if size > MAX_STRUCTURE_BYTES:
        raise UserError(f"{name} has {size} bytes as JSON, the bound is {MAX_STRUCTURE_BYTES}.", param=name)


def _check_depth(name: str, value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > MAX_STRUCTURE_DEPTH:
            raise UserError(f"{name} may have {MAX_STRUCTURE_DEPTH} levels; it has more.", param=name)
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, (list, tuple)):
                deeper.extend(item)
        level, depth = deeper, depth + 1
