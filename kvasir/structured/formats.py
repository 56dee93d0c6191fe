"""Formats: what an answer must look like, as a tree of structs. This is what travels from the front to the core.

The types are those of "structural tags" as other engines take them in requests, so a tree a user wrote is read with
the same structs that the front builds for schemas, choices and tool calls.
"""

from collections.abc import Callable
from typing import Any, Union

import msgspec

from kvasir.errors import UserError
from kvasir.messages import StructuredOutputsParams

PART = "grammar"
"""Name of the format in `EngineCoreRequest.parts`."""


class ConstString(msgspec.Struct, tag="const_string"):
    """This text. Special tokens are written by their text."""

    value: str


class JsonSchema(msgspec.Struct, tag="json_schema", omit_defaults=True):
    """`whitespace`: a pattern for what may stand between the parts; empty: nothing may; None: some blanks."""

    json_schema: dict[str, Any]
    whitespace: str | None = None


class Regex(msgspec.Struct, tag="regex"):
    pattern: str


class Grammar(msgspec.Struct, tag="grammar"):
    """Lark's notation, or `::=` rules."""

    grammar: str


class AnyText(msgspec.Struct, tag="any_text"):
    """Any text without special tokens."""


class Sequence(msgspec.Struct, tag="sequence"):
    elements: list["Format"]


class Or(msgspec.Struct, tag="or"):
    elements: list["Format"]


class Tag(msgspec.Struct, tag="tag"):
    """Text or a pattern as the content ends where `end` appears first."""

    begin: str
    content: "Format"
    end: str


class TriggeredTags(msgspec.Struct, tag="triggered_tags", omit_defaults=True):
    """Free text; where a trigger appears in it, one of the tags that begin with it must follow."""

    triggers: list[str]
    tags: list[Tag]
    at_least_one: bool = False
    stop_after_first: bool = False


class TagsWithSeparator(msgspec.Struct, tag="tags_with_separator", omit_defaults=True):
    tags: list[Tag]
    separator: str
    at_least_one: bool = False
    stop_after_first: bool = False


Format = Union[  # noqa: UP007  (evaluated by msgspec, with forward references)
    ConstString, JsonSchema, Regex, Grammar, AnyText, Sequence, Or, Tag, TriggeredTags, TagsWithSeparator
]

_DECODER = msgspec.json.Decoder(Format)


def encode(fmt: Format) -> str:
    """The format as text; equal formats give equal texts, the order of a schema's properties being part of them."""
    return msgspec.json.encode(fmt).decode()


def decode(text: str) -> Format:
    return _DECODER.decode(text)


def optional(fmt: Format) -> Format:
    return Or([fmt, ConstString("")])


def mapped(fmt: Format, change: Callable[[Format], Format]) -> Format:
    """The tree with every part changed, the innermost first."""
    match fmt:
        case Sequence(elements) | Or(elements):
            fmt = type(fmt)([mapped(e, change) for e in elements])
        case Tag(begin, content, end):
            fmt = Tag(begin, mapped(content, change), end)
        case TriggeredTags() | TagsWithSeparator():
            fmt = msgspec.structs.replace(fmt, tags=[mapped(tag, change) for tag in fmt.tags])
    return change(fmt)


def format_of(params: StructuredOutputsParams) -> Format:
    """What the parameters ask for.

    Raises:
        UserError: a structural tag of an unknown form.
    """
    return mapped(_bare_format(params), lambda fmt: _with_options(fmt, params))


def _bare_format(params: StructuredOutputsParams) -> Format:
    if params.json is not None:
        return JsonSchema(params.json)
    if params.json_object:
        return JsonSchema({"type": "object"})
    if params.regex is not None:
        return Regex(params.regex)
    if params.choice is not None:
        return Or([ConstString(text) for text in params.choice])
    if params.grammar is not None:
        return Grammar(params.grammar)
    return _read_tag(params.structural_tag)


def _with_options(fmt: Format, params: StructuredOutputsParams) -> Format:
    if not isinstance(fmt, JsonSchema):
        return fmt
    schema = closed(fmt.json_schema) if params.disable_additional_properties else fmt.json_schema
    whitespace = "" if params.disable_any_whitespace else params.whitespace_pattern
    return JsonSchema(schema, whitespace if fmt.whitespace is None else fmt.whitespace)


def closed(schema: Any, *, maps: bool = True) -> Any:
    """Every object schema that does not say otherwise takes no other keys than its own.

    Args:
        maps: also those that name no keys at all.
    """
    if isinstance(schema, list):
        return [closed(item, maps=maps) for item in schema]
    if not isinstance(schema, dict):
        return schema
    literal = ("enum", "const", "default", "examples")
    schema = {key: value if key in literal else closed(value, maps=maps) for key, value in schema.items()}
    says = "additionalProperties" in schema or "patternProperties" in schema
    if not says and (isinstance(schema.get("properties"), dict) or (maps and schema.get("type") == "object")):
        schema["additionalProperties"] = False
    return schema


def _read_tag(tag: dict[str, Any]) -> Format:
    """`{"format": ...}`, or the older `{"structures": [{begin, schema, end}], "triggers": [...]}`."""
    try:
        if "format" in tag:
            return msgspec.convert(tag["format"], Format)
        if "structures" in tag:
            old = msgspec.convert(tag, _OldTags)
            tags = [Tag(s.begin, JsonSchema(s.json_schema), s.end) for s in old.structures]
            return TriggeredTags(old.triggers, tags)
    except msgspec.ValidationError as error:
        raise UserError(f"structural_tag: {str(error).replace('`', '')}.", param="structural_tag") from None
    raise UserError("structural_tag must have format, or structures and triggers.", param="structural_tag")


class _OldTag(msgspec.Struct):
    begin: str
    end: str
    json_schema: dict[str, Any] = msgspec.field(name="schema")


class _OldTags(msgspec.Struct):
    structures: list[_OldTag]
    triggers: list[str]
