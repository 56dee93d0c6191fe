"""A Messages request -> a chat request: blocks become messages, tools and choices take their chat spelling."""

from typing import Any

from kvasir.entrypoints.http.anthropic.schema import (
    InputMessage,
    MessagesRequest,
    PromptFields,
    TextBlock,
    ThinkingBlock,
    ToolChoice,
    ToolDef,
    ToolResultBlock,
    ToolUseBlock,
)
from kvasir.entrypoints.http.body import check_depth, convert
from kvasir.entrypoints.http.schema import (
    ChatCompletionRequest,
    ChatMessage,
    FunctionCall,
    TemplateFields,
    ToolCall,
)
from kvasir.errors import UserError

CHAT_NAMES = {
    "response_format": "output_config.format",
    "reasoning_effort": "output_config.effort",
    "thinking_token_budget": "thinking.budget_tokens",
}


def chat_request(request: PromptFields) -> ChatCompletionRequest:
    if request.n not in (None, 1):
        raise UserError(f"a message is one answer; n must be 1, got {request.n}.", param="n")
    fields = {name: getattr(request, name) for name in TemplateFields.__struct_fields__}
    fields["stream_options"] = None
    fields["tools"] = [_tool(i, tool) for i, tool in enumerate(request.tools)] if request.tools else None
    _choose_tools(fields, request)
    _think(fields, request)
    if isinstance(request, MessagesRequest) and request.stop_sequences is not None:
        fields["stop"] = request.stop_sequences
    messages = _messages(request)
    last = messages[-1]
    if last.role == "assistant" and not last.tool_calls and fields["continue_final_message"] is None:
        fields["continue_final_message"] = True  # the answer begins with what the caller has put into its mouth
    return ChatCompletionRequest(messages=messages, **fields)


def _messages(request: PromptFields) -> list[ChatMessage]:
    messages: list[ChatMessage] = []
    if request.system:
        messages.append(ChatMessage(role="system", content=_text(request.system, "system")))
    for i, message in enumerate(request.messages):
        path = f"messages[{i}].content"
        if isinstance(message.content, list):
            check_depth(message.content, path)
        if message.role == "assistant":
            messages.append(_assistant(message, path))
        elif message.role == "system":
            messages.append(ChatMessage(role="system", content=_text(message.content, path)))
        else:
            messages += _user(message, path)
    return messages


def _assistant(message: InputMessage, path: str) -> ChatMessage:
    if isinstance(message.content, str):
        return ChatMessage(role="assistant", content=message.content)
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[ToolCall] = []
    for j, block in enumerate(message.content):
        at = f"{path}[{j}]"
        kind = block.get("type")
        if kind == "text":
            texts.append(convert(block, TextBlock, at).text)
        elif kind == "thinking":
            thoughts.append(convert(block, ThinkingBlock, at).thinking)
        elif kind == "tool_use":
            use = convert(block, ToolUseBlock, at)
            calls.append(ToolCall(id=use.id, function=FunctionCall(name=use.name, arguments=use.input)))
        elif kind != "redacted_thinking":  # nobody can read that
            raise _unknown(at, kind, "text, thinking and tool_use")
    thought = "\n".join(thoughts) or None
    return ChatMessage(
        role="assistant",
        content="\n".join(texts) if texts or not calls else None,
        tool_calls=calls or None,
        reasoning=thought,
        reasoning_content=thought,
    )


def _user(message: InputMessage, path: str) -> list[ChatMessage]:
    """Results of calls are messages of their own; text between them keeps its place."""
    if isinstance(message.content, str):
        return [ChatMessage(role="user", content=message.content)]
    messages: list[ChatMessage] = []
    for j, block in enumerate(message.content):
        at = f"{path}[{j}]"
        if block.get("type") == "tool_result":
            result = convert(block, ToolResultBlock, at)
            text = _text(result.content or "", f"{at}.content") or ("error" if result.is_error else "")
            messages.append(ChatMessage(role="tool", tool_call_id=result.tool_use_id, content=text))
            continue
        text = _text([block], at)
        last = messages[-1] if messages else None
        if last is not None and last.role == "user":
            last.content = f"{last.content}\n{text}"
        else:
            messages.append(ChatMessage(role="user", content=text))
    return messages or [ChatMessage(role="user", content="")]


def _text(content: str | list[dict[str, Any]], path: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for j, block in enumerate(content):
        at = f"{path}[{j}]" if len(content) > 1 or not path.endswith("]") else path
        if block.get("type") != "text":
            raise _unknown(at, block.get("type"), "this model reads text; text and tool_result")
        texts.append(convert(block, TextBlock, at).text)
    return "\n".join(texts)


def _unknown(path: str, kind: Any, known: str) -> UserError:
    return UserError(f"{path} has type {kind!r:.80}; {known} are available.", param=f"{path}.type")


def _tool(index: int, tool: dict[str, Any]) -> dict[str, Any]:
    found = convert(tool, ToolDef, f"tools[{index}]")
    if found.type not in (None, "custom"):
        raise UserError(
            f"tools[{index}] has type {found.type!r:.80}; this server runs no tools of its own, only custom ones are "
            "available.",
            param=f"tools[{index}].type",
        )
    function: dict[str, Any] = {"name": found.name, "parameters": found.input_schema or {"type": "object"}}
    if found.description is not None:
        function["description"] = found.description
    return {"type": "function", "function": function}


def _choose_tools(fields: dict[str, Any], request: PromptFields) -> None:
    if request.tool_choice is None:
        return
    choice = convert(request.tool_choice, ToolChoice, "tool_choice")
    if choice.disable_parallel_tool_use:
        fields["parallel_tool_calls"] = False
    if choice.type == "tool":
        if not choice.name:
            raise UserError("tool_choice of type tool needs a name.", param="tool_choice.name")
        fields["tool_choice"] = {"type": "function", "function": {"name": choice.name}}
    else:
        fields["tool_choice"] = {"any": "required"}.get(choice.type, choice.type)


def _think(fields: dict[str, Any], request: PromptFields) -> None:
    """Templates call the switch by one of two names."""
    if request.thinking is not None and request.thinking.type != "adaptive":
        on = request.thinking.type == "enabled"
        fields["chat_template_kwargs"] = {
            "enable_thinking": on,
            "thinking": on,
            **(request.chat_template_kwargs or {}),
        }
        if on and request.thinking.budget_tokens is not None:
            fields["thinking_token_budget"] = request.thinking.budget_tokens
    config = request.output_config
    if config is not None and config.effort is not None:
        fields["reasoning_effort"] = config.effort
    if config is not None and config.format is not None:
        schema = {"name": "output", "schema": config.format.get("schema")}
        given = {"type": config.format.get("type"), "json_schema": schema}
        fields["response_format"] = convert({"response_format": given}, TemplateFields).response_format
