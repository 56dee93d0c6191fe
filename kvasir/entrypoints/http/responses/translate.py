"""A Responses request -> a chat request: items become messages, tools and formats take their chat spelling."""

from typing import Any

from kvasir.entrypoints.http.body import check_depth, convert
from kvasir.entrypoints.http.prompts import content_text
from kvasir.entrypoints.http.responses.schema import (
    CallItem,
    CallOutputItem,
    InputFields,
    MessageItem,
    ReasoningItem,
    ResponsesRequest,
)
from kvasir.entrypoints.http.schema import (
    ChatCompletionRequest,
    ChatMessage,
    FunctionCall,
    TemplateFields,
    ToolCall,
)
from kvasir.errors import UserError

LOGPROBS = "message.output_text.logprobs"
CHAT_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
_REFUSED = {
    "conversation": "conversations are not kept here; send previous_response_id, or the whole input.",
    "prompt": "prompt templates are not kept here; send instructions and input.",
    "max_tokens": "send max_output_tokens instead of max_tokens.",
    "prompt_logprobs": "prompt_logprobs is available on /v1/chat/completions only.",
}


def check_refused(request: InputFields) -> None:
    for name, why in _REFUSED.items():
        if getattr(request, name, None) is not None:
            raise UserError(why, param=name)
    if request.n not in (None, 1):
        raise UserError(f"a response is one answer; n must be 1, got {request.n}.", param="n")


def chat_request(request: InputFields, messages: list[ChatMessage]) -> ChatCompletionRequest:
    """`messages` are those of earlier responses and of this one's input; earlier instructions do not count any more."""
    fields = {name: getattr(request, name) for name in TemplateFields.__struct_fields__}
    fields["tools"], fields["tool_choice"] = _tools(request)
    fields["stream_options"] = None
    if request.reasoning is not None and request.reasoning.effort is not None:
        fields["reasoning_effort"] = request.reasoning.effort
    if request.text is not None and request.text.format is not None:
        fields["response_format"] = _response_format(request.text.format)
    if isinstance(request, ResponsesRequest):
        fields["max_completion_tokens"] = request.max_output_tokens
        if request.include is not None and LOGPROBS in request.include:
            fields["logprobs"], fields["top_logprobs"] = True, request.top_logprobs
    return ChatCompletionRequest(messages=_with_instructions(request.instructions, messages), **fields)


def _with_instructions(instructions: str | None, messages: list[ChatMessage]) -> list[ChatMessage]:
    """One system message in front: many templates take no second one."""
    if not instructions:
        return messages
    texts, rest = [instructions], messages
    while rest and rest[0].role in ("system", "developer") and isinstance(rest[0].content, str):
        texts.append(rest[0].content)
        rest = rest[1:]
    return [ChatMessage(role="system", content="\n\n".join(texts)), *rest]


def input_items(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The input as items, whichever way it was sent."""
    if not given:
        raise UserError("input is empty: send a text or at least one item.", param="input")
    if not isinstance(given, str):
        check_depth(given, "input")
        return given
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": given}]}]


def messages_of(items: list[dict[str, Any]], name: str) -> list[ChatMessage]:
    """A thought, a message and calls in a row are one message of the assistant's, as its template knows them."""
    messages: list[ChatMessage] = []
    names: dict[str, str] = {}  # call id -> function
    for i, item in enumerate(items):
        path = f"{name}[{i}]"
        kind = item.get("type") or ("message" if "role" in item else None)
        if kind == "message":
            message = convert(item, MessageItem, path)
            text = message.content
            text = text if isinstance(text, str) else content_text(text, f"{path}.content")
            if message.role == "assistant":
                _open_turn(messages, has_text=True).content = text
            else:
                messages.append(ChatMessage(role=message.role, content=text))
        elif kind == "function_call":
            call = convert(item, CallItem, path)
            names[call.call_id] = call.name
            turn = _open_turn(messages)
            function = FunctionCall(name=call.name, arguments=call.arguments)
            turn.tool_calls = [*(turn.tool_calls or ()), ToolCall(id=call.call_id, function=function)]
        elif kind == "function_call_output":
            output = convert(item, CallOutputItem, path)
            text = output.output
            text = text if isinstance(text, str) else content_text(text, f"{path}.output")
            messages.append(
                ChatMessage(role="tool", tool_call_id=output.call_id, content=text, name=names.get(output.call_id))
            )
        elif kind == "reasoning":
            thought = convert(item, ReasoningItem, path)
            text = "".join(part.text for part in thought.content or thought.summary)
            messages.append(ChatMessage(role="assistant", reasoning=text, reasoning_content=text))
        else:
            raise UserError(
                f"{path} has type {kind!r:.80}; message, function_call, function_call_output and reasoning are "
                "available.",
                param=f"{path}.type",
            )
    return messages


def _open_turn(messages: list[ChatMessage], has_text: bool = False) -> ChatMessage:
    """The assistant's message that may still take a call, or a text: what comes later in a turn ends it."""
    last = messages[-1] if messages else None
    if last is None or last.role != "assistant" or (has_text and (last.content is not None or last.tool_calls)):
        messages.append(last := ChatMessage(role="assistant"))
    return last


def _tools(request: InputFields) -> tuple[list[dict[str, Any]] | None, str | dict[str, Any] | None]:
    tools, choice = request.tools, request.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("tools")
        names = [t.get("name") for t in allowed if isinstance(t, dict)] if isinstance(allowed, list) else []
        tools = [tool for tool in tools or () if tool.get("name") in names]
        choice = choice.get("mode", "auto")
    elif isinstance(choice, dict):
        if choice.get("type") != "function":
            raise UserError("tool_choice must be auto, none, required or a function.", param="tool_choice")
        choice = {"type": "function", "function": {"name": choice.get("name")}}
    return [_tool(i, tool) for i, tool in enumerate(tools)] if tools else None, choice


def _tool(index: int, tool: dict[str, Any]) -> dict[str, Any]:
    """The flat spelling of this API -> chat's. The shape itself is checked by the chat path."""
    if tool.get("type") != "function":
        raise UserError(
            f"tools[{index}] has type {tool.get('type')!r:.80}; this server runs no tools of its own, only function "
            "is available.",
            param=f"tools[{index}].type",
        )
    if isinstance(tool.get("function"), dict):
        return tool
    function = {key: value for key, value in tool.items() if key != "type" and value is not None}
    return {"type": "function", "function": function}


def _response_format(given: dict[str, Any]) -> Any:
    """`{"type": "json_schema", "name": ..., "schema": ...}` -> the same with chat's inner object."""
    fields = dict(given)
    if given.get("type") == "json_schema" and "json_schema" not in given:
        inner = {key: value for key, value in given.items() if key != "type"}
        fields = {"type": "json_schema", "json_schema": inner}
    return convert({"response_format": fields}, TemplateFields).response_format
