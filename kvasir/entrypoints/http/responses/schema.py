"""Requests of the Responses API. Fields that the chat path knows under the same name are inherited."""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from kvasir.entrypoints.http.schema import ContentPart, Short, TemplateFields

MAX_ITEMS = 8192


class TextConfig(Struct, kw_only=True):
    format: dict[str, Any] | None = None
    verbosity: Short | None = None


class ReasoningConfig(Struct, kw_only=True):
    effort: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    summary: Short | None = None
    generate_summary: Short | None = None


class InputFields(TemplateFields, kw_only=True):
    """What decides the prompt."""

    input: str | Annotated[list[dict[str, Any]], Meta(max_length=MAX_ITEMS)]
    instructions: str | None = None
    previous_response_id: Short | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None

    # Declared to be refused (translate.py).
    conversation: Any = None
    prompt: Any = None


class ResponsesRequest(InputFields, kw_only=True):
    max_output_tokens: int | None = None
    top_logprobs: int | None = None
    include: Annotated[list[Short], Meta(max_length=64)] | None = None
    store: bool | None = None
    background: bool | None = None
    max_tool_calls: int | None = None
    metadata: Annotated[dict[Short, Short], Meta(max_length=16)] | None = None
    safety_identifier: Short | None = None
    prompt_cache_key: Short | None = None
    service_tier: Short | None = None


class InputTokensRequest(InputFields, kw_only=True):
    """What a request would cost, without asking it."""


class MessageItem(Struct, kw_only=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Annotated[list[ContentPart], Meta(max_length=1024)]


class CallItem(Struct, kw_only=True):
    call_id: Annotated[str, Meta(min_length=1, max_length=512)]
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    arguments: str


class CallOutputItem(Struct, kw_only=True):
    call_id: Annotated[str, Meta(min_length=1, max_length=512)]
    output: str | Annotated[list[ContentPart], Meta(max_length=1024)]


class TextPart(Struct, kw_only=True):
    text: str


class ReasoningItem(Struct, kw_only=True):
    summary: Annotated[list[TextPart], Meta(max_length=1024)] = []
    content: Annotated[list[TextPart], Meta(max_length=1024)] | None = None
