"""What a request says about the shape of its answer -> `StructuredOutputsParams`, with tools and thoughts around it."""

from typing import Any

import msgspec

from kvasir.entrypoints.http.schema import SamplingFields, TemplateFields
from kvasir.errors import UserError
from kvasir.messages import StructuredOutputsParams
from kvasir.parsers import Frame, ReasoningFamily, Think, ToolFamily
from kvasir.structured.formats import Format, Or, format_of
from kvasir.structured.tools import (
    CalledTool,
    after_framed_thought,
    after_thought,
    checked_calls,
    forced_calls,
    framed_answer,
)

_GUIDED = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def structure_of(request: SamplingFields) -> StructuredOutputsParams | None:
    """From `response_format`, `structured_outputs` or one of the older `guided_*` fields.

    Raises:
        UserError: more than one of them, or one that is wrong.
    """
    found: list[tuple[str, dict[str, Any]]] = []
    if request.response_format is not None and request.response_format.type != "text":
        found.append(("response_format", _of_response_format(request)))
    if request.structured_outputs is not None:
        found.append(("structured_outputs", request.structured_outputs))
    for name, kind in _GUIDED.items():
        value = getattr(request, name)
        if value not in (None, "", [], {}):
            found.append((name, {kind: value, "whitespace_pattern": request.guided_whitespace_pattern}))
    if len(found) > 1:
        raise UserError(f"{found[0][0]} and {found[1][0]} both say what the answer is: keep one.", param=found[1][0])
    if not found:
        return None
    name, fields = found[0]
    unknown = sorted(set(fields) - set(StructuredOutputsParams.__struct_fields__))
    if unknown:
        known = ", ".join(StructuredOutputsParams.__struct_fields__)
        raise UserError(f"{name} may hold {known}; {unknown[0]!r:.80} is none of them.", param=name)
    try:
        made = msgspec.convert(fields, StructuredOutputsParams)
        format_of(made)  # finds what is wrong in a structural tag
        return made
    except msgspec.ValidationError as error:
        own = error.__cause__  # what the struct itself found wrong
        text = own.message if isinstance(own, UserError) else f"{name}: {str(error).replace('`', '')}."
        raise UserError(text, param=name) from None


def _of_response_format(request: SamplingFields) -> dict[str, Any]:
    wanted = request.response_format
    assert wanted is not None
    if wanted.type == "json_object":
        return {"json_object": True}
    if wanted.type == "json_schema":
        if wanted.json_schema is None or wanted.json_schema.json_schema is None:
            raise UserError("response_format json_schema needs json_schema.schema.", param="response_format")
        return {"json": wanted.json_schema.json_schema}
    if wanted.type == "structural_tag":
        parts = {"format": wanted.format, "structures": wanted.structures, "triggers": wanted.triggers}
        return {"structural_tag": {name: part for name, part in parts.items() if part is not None}}
    raise UserError(
        f"response_format.type must be text, json_object, json_schema or structural_tag, got {wanted.type!r:.40}.",
        param="response_format",
    )


def chat_structure(
    request: TemplateFields,
    prompt: str | None,
    wanted: StructuredOutputsParams | None,
    tools: ToolFamily | None,
    reasoning: ReasoningFamily | None,
) -> StructuredOutputsParams | None:
    """What the whole answer of a chat must be: perhaps a thought, then calls or the shape that was asked for.

    Args:
        wanted: what the request says of the answer itself.
        tools: how the model writes calls; None when nobody reads them.

    Raises:
        UserError: a choice of tools that cannot be had.
    """
    answer = None if wanted is None else format_of(wanted)
    frame = _frame(tools, reasoning)
    if frame is not None and answer is not None:
        answer = framed_answer(frame, answer)
    calls = _calls(request, tools, answer)
    if calls is not None:
        answer = calls
    if answer is None:
        return None
    if frame is not None:
        answer = after_framed_thought(frame, answer)
    elif reasoning is not None:
        if not isinstance(reasoning.style, Think):
            raise UserError(
                "this server's reasoning parser does not say where thoughts end, so nothing can be asked of the answer "
                "behind them.",
                param="response_format",
            )
        answer = after_thought(reasoning.style, prompt, answer)
    elif calls is None:
        return wanted
    return StructuredOutputsParams(structural_tag={"format": msgspec.to_builtins(answer)})


def _frame(tools: ToolFamily | None, reasoning: ReasoningFamily | None) -> Frame | None:
    if tools is not None and tools.frame is not None:
        return tools.frame
    return reasoning.style if reasoning is not None and isinstance(reasoning.style, Frame) else None


def _calls(request: TemplateFields, tools: ToolFamily | None, answer: Format | None) -> Format | None:
    """What `tools` and `tool_choice` make of the answer; None when they leave it as it is."""
    forced = _forced_tools(request)
    chosen = forced if forced is not None else (request.tools or []) if request.tool_choice != "none" else []
    named, framed = isinstance(request.tool_choice, dict), tools is not None and tools.frame is not None
    several = request.parallel_tool_calls is not False and not named and not framed
    called = [CalledTool(t["function"]["name"], t["function"].get("parameters")) for t in chosen]
    if forced is not None:
        if answer is not None:
            raise UserError(
                "tool_choice asks for a call and response_format for an answer: keep one.", param="tool_choice"
            )
        return forced_calls(_styles(tools, "tool_choice"), called, several=several)
    if not called or tools is None:
        return None
    if answer is not None:
        return Or([forced_calls(_styles(tools, "response_format"), called, several=several), answer])
    if not any(t["function"].get("strict") for t in chosen) or not tools.styles:
        return None
    loose = [c if t["function"].get("strict") else CalledTool(c.name) for c, t in zip(called, chosen, strict=True)]
    try:
        return checked_calls(tools.styles, loose, several=several)
    except UserError:  # strict is a wish of helpers more often than of people: what cannot be held to it stays free
        return None


def _forced_tools(request: TemplateFields) -> list[dict[str, Any]] | None:
    """The tools one of which must be called; None when none must."""
    choice = request.tool_choice
    if choice in (None, "none", "auto"):
        return None
    if choice != "required" and not (isinstance(choice, dict) and choice.get("type") == "function"):
        raise UserError(
            'tool_choice must be none, auto, required, or {"type": "function", "function": {"name": ...}}.',
            param="tool_choice",
        )
    tools = request.tools or []
    if not tools:
        raise UserError("tool_choice asks for a call, and there are no tools.", param="tool_choice")
    if choice == "required":
        return tools
    function = choice.get("function")  # type: ignore[union-attr]
    name = function.get("name") if isinstance(function, dict) else None
    named = [tool for tool in tools if tool["function"]["name"] == name]
    if not named:
        raise UserError(f"tool_choice names {name!r:.100}, which is none of the tools.", param="tool_choice")
    return named[:1]


def _styles(tools: ToolFamily | None, param: str) -> Any:
    if tools is not None and tools.styles:
        return tools.styles
    why = (
        "this server has no tool-call parser (--tool-call-parser)"
        if tools is None
        else "the model's family of calls (--tool-call-parser) has no form that can be enforced"
    )
    what = "a call cannot be forced" if param == "tool_choice" else "response_format does not go together with tools"
    raise UserError(f"{what}: {why}. Send tool_choice auto or none.", param=param)
