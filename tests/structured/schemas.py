"""Schemas of the kinds people send, small enough for a random model to come to an end."""

from typing import Any


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


_POINT = _object(x={"type": "integer", "minimum": -9, "maximum": 9}, y={"type": "integer", "multipleOf": 5})

SCHEMAS: dict[str, dict[str, Any]] = {
    "nested objects": {
        "type": "object",
        "properties": {"from": _POINT, "to": _object(at=_POINT)},
        "required": ["from", "to"],
        "additionalProperties": False,
    },
    "enum": {"enum": ["red", "green", 3, None, {"a": [True]}]},
    "bounded array": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2, "maxItems": 4},
    "union": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"type": "string", "maxLength": 5}, _POINT]},
    "number": {"type": "number", "minimum": -2.5, "exclusiveMaximum": 7},
    "string pattern": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"},
    "string length": {"type": "string", "minLength": 3, "maxLength": 6},
    "format": _object(on={"type": "string", "format": "date"}, id={"type": "string", "format": "uuid"}),
    "unicode": {
        "type": "object",
        "properties": {"größe": {"enum": ["große", "日本", "🙂"]}, "naïve": {"const": "ça va"}},
        "required": ["größe", "naïve"],
        "additionalProperties": False,
    },
    "optional properties": {
        "type": "object",
        "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"enum": [1, 2]}},
        "required": ["b"],
        "additionalProperties": False,
    },
    "definitions": {
        "type": "object",
        "properties": {"points": {"type": "array", "items": {"$ref": "#/$defs/point"}, "maxItems": 2}},
        "required": ["points"],
        "additionalProperties": False,
        "$defs": {"point": _POINT},
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "integer", "minimum": 0, "maximum": 99}, {"const": "z"}],
        "items": False,
        "minItems": 2,
    },
    "map": {
        "type": "object",
        "patternProperties": {"^k[0-9]$": {"type": "boolean"}},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 2,
    },
}
