"""Requests of the Messages API. Fields that the chat path knows under the same name are inherited."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from kvasir.entrypoints.http.schema import MAX_MESSAGES, Short, TemplateFields

Blocks = Annotated[list[dict[str, Any]], Meta(max_length=4096)]


class InputMessage(Struct, kw_only=True):
    role: Literal["user", "assistant", "system"]
    content: str | Blocks


class Thinking(Struct, kw_only=True):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class OutputConfig(Struct, kw_only=True):
    effort: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    format: dict[str, Any] | None = None


class PromptFields(TemplateFields, kw_only=True):
    """What decides the prompt."""

    messages: Annotated[list[InputMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    system: str | Blocks | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesRequest(PromptFields, kw_only=True):
    max_tokens: int
    stop_sequences: list[str] | None = None


class CountTokensRequest(PromptFields, kw_only=True):
    """What a request would cost, without asking it."""


class TextBlock(Struct, kw_only=True):
    text: str


class ThinkingBlock(Struct, kw_only=True):
    thinking: str


class ToolUseBlock(Struct, kw_only=True):
    id: Annotated[str, Meta(min_length=1, max_length=512)]
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    input: dict[str, Any]


class ToolResultBlock(Struct, kw_only=True):
    tool_use_id: Annotated[str, Meta(min_length=1, max_length=512)]
    content: str | Blocks | None = None
    is_error: bool | None = None


class ToolDef(Struct, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    type: Short | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class ToolChoice(Struct, kw_only=True):
    type: Literal["auto", "any", "tool", "none"]
    name: Short | None = None
    disable_parallel_tool_use: bool | None = None
