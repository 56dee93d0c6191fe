"""Which family writes how: one row each. Names are those that other servers' users know."""

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from kvasir.parsers.json_text import CallKeys
from kvasir.parsers.machines.harmony import harmony
from kvasir.parsers.machines.named_json import NamedJson, named_json, read_named
from kvasir.parsers.machines.pythonic import pythonic
from kvasir.parsers.machines.tagged_json import TaggedJson, read_calls, tagged_json
from kvasir.parsers.machines.think import Think, think
from kvasir.parsers.machines.xml import XmlStyle, xml
from kvasir.parsers.output import Output
from kvasir.parsers.parser import Format, FormatParser, Parser
from kvasir.parsers.reader import Reader, Steps, Tags
from kvasir.parsers.values import ToolSchema
from kvasir.parsers.writing import CallStyle, Frame, json_object

MakeToolParser = Callable[[Sequence[ToolSchema]], Parser]
MakeReasoningParser = Callable[[str | None], Parser]


class ToolFamily(msgspec.Struct, frozen=True):
    """How a model writes calls.

    Attributes:
        make: takes the request's tools.
        special_tokens: its marks are special tokens, which must stay in the text.
        reads_all: the format is that of all answers, with calls or without, and of the thoughts in them: its parser is
            always used, alone.
        frame: the marks of such a format; then an answer holds one call at most.
        styles: how it writes calls; a model of the family knows one of them. Empty: calls cannot be forced.
    """

    make: MakeToolParser
    special_tokens: bool = False
    reads_all: bool = False
    frame: Frame | None = None
    styles: tuple[CallStyle | XmlStyle, ...] = ()


class ReasoningFamily(msgspec.Struct, frozen=True):
    """`make` takes the prompt's text, whose end may say where the answer begins.

    Attributes:
        style: the marks around a thought, or those of every part of an answer; None when only the parser knows them.
    """

    make: MakeReasoningParser
    special_tokens: bool = False
    style: Think | Frame | None = None


def _names(tools: Sequence[ToolSchema]) -> frozenset[str]:
    return frozenset(tool.name for tool in tools)


def _tagged(opens: tuple[str, ...], written: CallStyle, *, special_tokens: bool = False, **style: Any) -> ToolFamily:
    row = TaggedJson(opens, **style)
    return ToolFamily(lambda tools: FormatParser(tagged_json(row, _names(tools))), special_tokens, styles=(written,))


def _listed(section: str) -> CallStyle:
    return json_object(section=section + "[", section_end="]", separator=", ", trigger=section)


def _named(row: NamedJson, written: CallStyle) -> ToolFamily:
    return ToolFamily(lambda tools: FormatParser(named_json(row)), special_tokens=True, styles=(written,))


def _sectioned(row: NamedJson, **changes: Any) -> CallStyle:
    """A call as its reading row has it."""
    return replace(
        CallStyle(
            before=row.open + row.before_name,
            after_name=row.before_arguments,
            after=row.after_arguments,
            section=row.section,
            section_end=row.section_end,
            trigger=row.section,
        ),
        **changes,
    )


def _xml(row: XmlStyle) -> ToolFamily:
    return ToolFamily(lambda tools: FormatParser(xml(row, tools)), styles=(row,))


def _think(row: Think, *, special_tokens: bool = False) -> ReasoningFamily:
    return ReasoningFamily(lambda prompt: FormatParser(think(row, prompt)), special_tokens, row)


def _kimi_header(header: str) -> tuple[str, str | None]:
    """`functions.get_weather:0` is the id that the model's template expects back."""
    return header.removeprefix("functions.").rpartition(":")[0] or header.removeprefix("functions."), header


_MISTRAL_TAG = "[TOOL_CALLS]"
_MISTRAL_LIST = TaggedJson((_MISTRAL_TAG,), lists=True, keys=CallKeys(id="id"))
_MISTRAL_NAMED = tuple(NamedJson(open=_MISTRAL_TAG, before_arguments=mark) for mark in ("[ARGS]", ""))


def _mistral(reader: Reader, out: Output) -> Steps[None]:
    """Older models write a list of objects after the tag, newer ones the name and the arguments of each call."""
    opening = Tags(_MISTRAL_TAG)
    while (yield from reader.until(opening, out.content)):
        start = reader.pin()
        yield from reader.has(_MISTRAL_TAG)
        yield from reader.spaces()
        body = reader.at
        made = (yield from reader.peek()) in ("[", "{") and (yield from read_calls(reader, out, _MISTRAL_LIST))
        for row in _MISTRAL_NAMED:
            if not made:
                reader.rewind(body)
                made = yield from read_named(reader, out, row)
        if not made:
            reader.rewind(start)
            yield from reader.has(_MISTRAL_TAG)
            out.content(_MISTRAL_TAG)
        reader.unpin()


def _mistral_id() -> str:
    """The model's template takes ids of nine letters and digits only."""
    return "".join(random.choices(string.ascii_letters + string.digits, k=9))


_QWEN_XML = XmlStyle(
    "<tool_call>", "</tool_call>", "<function=", ">", "<parameter=", ">", "", "</parameter>", "</function>", True
)
_GLM_XML = XmlStyle(
    "<tool_call>", "</tool_call>", "", "", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "", False
)
_DEEPSEEK_V31 = NamedJson(
    section="<｜tool▁calls▁begin｜>",
    section_end="<｜tool▁calls▁end｜>",
    open="<｜tool▁call▁begin｜>",
    before_arguments="<｜tool▁sep｜>",
    after_arguments="<｜tool▁call▁end｜>",
)
_DEEPSEEK_V3 = replace(
    _DEEPSEEK_V31,
    before_name="function<｜tool▁sep｜>",
    before_arguments="```json",
    after_arguments="```<｜tool▁call▁end｜>",
)
_KIMI_K2 = NamedJson(
    section="<|tool_calls_section_begin|>",
    section_end="<|tool_calls_section_end|>",
    open="<|tool_call_begin|>",
    before_arguments="<|tool_call_argument_begin|>",
    after_arguments="<|tool_call_end|>",
    header=_kimi_header,
)


_HERMES = json_object(open="<tool_call>", close="</tool_call>", separator="\n", trigger="<tool_call>")
_MISTRAL_STYLES = (_listed(_MISTRAL_TAG), CallStyle(_MISTRAL_TAG, "[ARGS]", trigger=_MISTRAL_TAG))


_HARMONY_FRAME = Frame(
    thought="<|channel|>analysis<|message|>",
    thought_end="<|end|><|start|>assistant",
    answer="<|channel|>final<|message|>",
)
_HARMONY_CALL = CallStyle("<|channel|>commentary to=functions.", " <|constrain|>json<|message|>")


def _read_pythonic(tools: Sequence[ToolSchema]) -> Format:
    return pythonic(_names(tools))


def _harmony(tools: Sequence[ToolSchema]) -> Parser:
    return FormatParser(harmony(_names(tools) if tools else None))


TOOL_FAMILIES: dict[str, ToolFamily] = {
    "hermes": _tagged(("<tool_call>",), _HERMES, close="</tool_call>"),
    "granite": _tagged(("<|tool_call|>", "<tool_call>"), _listed("<|tool_call|>"), lists=True, special_tokens=True),
    "phi4_mini_json": _tagged(("functools",), _listed("functools"), lists=True),
    "llama3_json": _tagged(
        ("<|python_tag|>",), json_object("parameters", separator="; "), between=";", bare=True, special_tokens=True
    ),
    "mistral": ToolFamily(
        lambda tools: FormatParser(_mistral, Output(_mistral_id)), special_tokens=True, styles=_MISTRAL_STYLES
    ),
    "pythonic": ToolFamily(lambda tools: FormatParser(_read_pythonic(tools))),
    "llama4_pythonic": ToolFamily(lambda tools: FormatParser(_read_pythonic(tools)), special_tokens=True),
    "qwen3_coder": _xml(_QWEN_XML),
    "qwen3_xml": _xml(_QWEN_XML),
    "glm45": _xml(_GLM_XML),
    "deepseek_v3": _named(
        _DEEPSEEK_V3,
        _sectioned(_DEEPSEEK_V3, after_name="\n```json\n", after="\n```<｜tool▁call▁end｜>", separator="\n"),
    ),
    "deepseek_v31": _named(_DEEPSEEK_V31, _sectioned(_DEEPSEEK_V31)),
    "kimi_k2": _named(_KIMI_K2, _sectioned(_KIMI_K2, before=_KIMI_K2.open + "functions.", numbered=True)),
    "openai": ToolFamily(_harmony, special_tokens=True, reads_all=True, frame=_HARMONY_FRAME, styles=(_HARMONY_CALL,)),
}

REASONING_FAMILIES: dict[str, ReasoningFamily] = {
    "openai_gptoss": ReasoningFamily(lambda prompt: _harmony(()), special_tokens=True, style=_HARMONY_FRAME),
    "qwen3": _think(Think()),
    "deepseek_r1": _think(Think(inside=True)),
    "deepseek_v3": _think(Think()),
    "glm45": _think(Think()),
    "kimi_k2": _think(Think()),
    "mistral": _think(Think(("[THINK]",), ("[/THINK]",)), special_tokens=True),
    "granite": _think(
        Think(
            ("Here is my thought process:", "Here's my thought process:"),
            ("Here is my response:", "Here's my response:"),
        )
    ),
}
