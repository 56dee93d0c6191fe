"""Values written as plain text -> JSON of the type that the tool's schema names. Nothing is evaluated."""

from typing import Any

from kvasir.parsers.json_text import decode, encode

_MAX_REFS = 16
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class ToolSchema:
    """A tool as a request sends it: its name, and the types of its parameters."""

    def __init__(self, name: str, parameters: dict[str, Any] | None = None):
        self.name = name
        self._root = parameters if isinstance(parameters, dict) else {}

    def types(self, parameter: str) -> frozenset[str]:
        """JSON types the parameter may have; empty when the schema does not say."""
        properties = self._root.get("properties")
        schema = properties.get(parameter) if isinstance(properties, dict) else None
        return frozenset(self._types(schema, _MAX_REFS))

    def _types(self, schema: Any, depth: int) -> set[str]:
        if not isinstance(schema, dict) or not depth:
            return set()
        kind = schema.get("type")
        if isinstance(kind, str):
            return {kind}
        if isinstance(kind, list):
            return {k for k in kind if isinstance(k, str)}
        if isinstance(schema.get("$ref"), str):
            return self._types(self._target(schema["$ref"]), depth - 1)
        found: set[str] = set()
        for key in ("anyOf", "oneOf", "allOf"):
            branches = schema.get(key)
            for branch in branches if isinstance(branches, list) else ():
                found |= self._types(branch, depth - 1)
        values = schema["enum"] if isinstance(schema.get("enum"), list) else []
        if "const" in schema:
            values = [*values, schema["const"]]
        return found | {_type_of(v) for v in values}

    def _target(self, ref: str) -> Any:
        at: Any = self._root
        for step in ref.removeprefix("#/").split("/"):
            at = at.get(step) if isinstance(at, dict) else None
        return at


def is_text(types: frozenset[str]) -> bool:
    """True when a value can be nothing but text, so that it need not be read to its end first."""
    return not types - {"string"}


def typed(text: str, types: frozenset[str]) -> str:
    """The JSON of a value. What does not fit its type stays text: the tool may say more about it than we can."""
    word = text.strip()
    word = _PYTHON_WORDS.get(word, word)
    try:
        value = decode(word)
    except ValueError:
        return encode(text)
    kind = _type_of(value)
    fits = kind in types or (kind == "integer" and "number" in types)
    if not fits and kind == "number" and "integer" in types and abs(value) < 2**53 and value == int(value):
        return str(int(value))
    return word if fits and kind != "string" else encode(text)


def _type_of(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "null" if value is None else "object"
