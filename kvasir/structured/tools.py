"""Formats around an answer's own: calls that must be made, calls that must be right, thoughts that come first."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Any

import msgspec

from kvasir.parsers import CallStyle, Frame, Think, XmlStyle, starts_inside
from kvasir.structured.formats import (
    AnyText,
    ConstString,
    Format,
    JsonSchema,
    Or,
    Regex,
    Sequence,
    Tag,
    TagsWithSeparator,
    TriggeredTags,
    closed,
    optional,
)
from kvasir.structured.xml_calls import xml_call

_LINE_BREAK = Regex(r"\n?")
_BLANKS = Regex(r"[ \t\r\n]{0,8}")
Style = CallStyle | XmlStyle
_ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True)
class CalledTool:
    """A tool that may be called: its name, and the schema of its arguments."""

    name: str
    parameters: dict[str, Any] | None = None


def forced_calls(styles: Items[Style], tools: Items[CalledTool], *, several: bool) -> Format:
    """An answer that is one call of one of the tools, or several calls."""
    return _one_of([_calls(style, tools, several) for style in styles])


def checked_calls(styles: Items[Style], tools: Items[CalledTool], *, several: bool) -> Format | None:
    """Free text in which whatever is announced as a call is one. None when nothing announces calls."""
    triggers = list(dict.fromkeys(map(_trigger, styles)))
    if not all(triggers):
        return None
    tags = [tag for style in styles for tag in _tags(style, tools, several)]
    return TriggeredTags(triggers, tags, stop_after_first=not several)


def after_thought(style: Think, prompt: str | None, answer: Format) -> Format:
    """What the end of the prompt leaves to be written: the rest of a thought, perhaps a thought, or none."""
    told = starts_inside(style, prompt)
    if told is False:
        return answer
    if told or style.inside:
        thoughts: list[Format] = [Tag("", AnyText(), close) for close in style.closes]
        if told is None:  # a model that begins inside may still write the first mark
            thoughts = [Sequence([optional(_marks(style.opens)), thought]) for thought in thoughts]
        return Sequence([_one_of(thoughts), _BLANKS, answer])
    thoughts = [Tag(begin, AnyText(), close) for begin in style.opens for close in style.closes]
    return Sequence([optional(Sequence([_one_of(thoughts), _BLANKS])), answer])


def framed_answer(frame: Frame, answer: Format) -> Format:
    return Sequence([ConstString(frame.answer), answer])


def after_framed_thought(frame: Frame, answer: Format) -> Format:
    """Perhaps a thought, and then what has a mark of its own already."""
    return Sequence([optional(Tag(frame.thought, AnyText(), frame.thought_end)), answer])


def _trigger(style: Style) -> str:
    return style.open if isinstance(style, XmlStyle) else style.trigger


def _calls(style: Style, tools: Items[CalledTool], several: bool) -> Format:
    tags = _tags(style, tools, several)
    if isinstance(style, CallStyle) and style.section:
        return tags[0]
    separator = "\n" if isinstance(style, XmlStyle) else style.separator
    return TagsWithSeparator(tags, separator, at_least_one=True, stop_after_first=not several)


def _tags(style: Style, tools: Items[CalledTool], several: bool) -> list[Tag]:
    """A tag for each tool, or one around the section that holds them all."""
    if isinstance(style, XmlStyle):
        return [xml_call(style, tool.name, tool.parameters) for tool in tools]
    tags = [_call(style, tool) for tool in tools]
    if not style.section:
        return tags
    calls = TagsWithSeparator(tags, style.separator, at_least_one=True, stop_after_first=not several)
    return [Tag(style.section, calls, style.section_end)]


def _call(style: CallStyle, tool: CalledTool) -> Tag:
    in_json = style.before.endswith('"')
    name = msgspec.json.encode(tool.name).decode()[1:-1] if in_json else tool.name
    arguments = JsonSchema(_arguments(tool.parameters))
    if style.numbered:
        number = Regex("[0-9]{1,3}")
        return Tag(f"{style.before}{name}:", Sequence([number, ConstString(style.after_name), arguments]), style.after)
    begin = style.before + name + style.after_name
    if not style.open:
        return Tag(begin, arguments, style.after)
    inside = Sequence([_LINE_BREAK, ConstString(begin), arguments, ConstString(style.after), _LINE_BREAK])
    return Tag(style.open, inside, style.close)


def _arguments(parameters: dict[str, Any] | None) -> dict[str, Any]:
    """A call has no arguments that its tool does not name, unless the schema says that it may."""
    if not parameters:
        return _ANY_OBJECT
    schema = closed(parameters, maps=False)
    return schema if "type" in schema or "$ref" in schema else {"type": "object", **schema}


def _one_of(formats: list[Format]) -> Format:
    return formats[0] if len(formats) == 1 else Or(formats)


def _marks(texts: Items[str]) -> Format:
    return _one_of([ConstString(text) for text in texts])
