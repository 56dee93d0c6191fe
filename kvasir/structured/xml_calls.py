"""Forced calls of families that write each argument between tags, as plain text where it is text."""

from typing import Any

from kvasir.errors import UserError
from kvasir.parsers import ToolSchema, XmlStyle, is_text
from kvasir.structured.formats import AnyText, ConstString, Format, JsonSchema, Or, Regex, Sequence, Tag, optional

_PLAIN = frozenset({"type", "title", "description", "default", "examples", "enum", "const", "minLength", "maxLength"})
_MAX_LENGTH = 100_000


def xml_call(style: XmlStyle, name: str, parameters: dict[str, Any] | None) -> Tag:
    """One call, its arguments in the order in which the schema names them.

    Raises:
        UserError: an argument is a text of a kind that cannot be held to its schema outside of JSON.
    """
    root = parameters or {}
    properties, required = root.get("properties"), root.get("required") or ()
    types = ToolSchema(name, root)
    parts: list[Format] = [ConstString(style.before_name + name + style.after_name + "\n")]
    for key, schema in (properties if isinstance(properties, dict) else {}).items():
        argument = _argument(style, key, schema, root, types.types(key))
        parts.append(argument if key in required else optional(argument))
    if style.before_name:
        return Tag(f"{style.open}\n", Sequence([*parts, ConstString(style.end)]), f"\n{style.close}")
    return Tag(style.open, Sequence(parts), style.close)


def _argument(style: XmlStyle, key: str, schema: Any, root: dict[str, Any], types: frozenset[str]) -> Format:
    line = "\n" if style.strips_line else ""
    between = "" if style.strips_line else "\n"
    begin = style.before_key + key + style.after_key + between + style.before_value + line
    end = line + style.after_value
    schema = schema if isinstance(schema, dict) else {}
    if is_text(types):
        value = _text(key, schema)
    elif "string" in types:  # whatever is written can be read as one of the types
        value = AnyText()
    else:
        value = JsonSchema({**{k: root[k] for k in ("$defs", "definitions") if k in root}, **schema})
    return Sequence([Tag(begin, value, end), ConstString("\n")])


def _text(key: str, schema: dict[str, Any]) -> Format:
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    if isinstance(values, list):
        return Or([ConstString(value) for value in values if isinstance(value, str)])
    if not schema.keys() <= _PLAIN:
        odd = sorted(schema.keys() - _PLAIN)[0]
        raise UserError(
            f"the model writes the argument {key!r:.100} as plain text, which cannot be held to {odd!r:.50}; leave "
            "that out of the tool's schema, or send tool_choice auto.",
            param="tools",
        )
    if "minLength" not in schema and "maxLength" not in schema:
        return AnyText()
    low, high = schema.get("minLength", 0), schema.get("maxLength", _MAX_LENGTH)
    return Regex(f"(?s:.){{{low:d},{high:d}}}")
