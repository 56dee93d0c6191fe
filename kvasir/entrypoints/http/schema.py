"""Request bodies. msgspec checks types and lengths; numbers are checked by `SamplingParams`, which knows the bounds.

Unknown fields are ignored, since OpenAI clients send extras. Fields that would change the answer, but that this
server cannot honour, are declared so that `refusals.py` can say so instead of ignoring them.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

MAX_PROMPTS = 1024
MAX_PROMPT_TOKENS = 4_194_304
MAX_MESSAGES = 8192
MAX_TOOLS = 512

Short = Annotated[str, Meta(max_length=512)]
Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
TokenIds = Annotated[list[Annotated[int, Meta(ge=0, le=2**31 - 1)]], Meta(max_length=MAX_PROMPT_TOKENS)]


class StreamOptions(Struct, kw_only=True):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class JsonSchemaFormat(Struct, kw_only=True):
    name: Short | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: dict[str, Any] | None = field(name="schema", default=None)


class ResponseFormat(Struct, kw_only=True):
    """`format`, or `structures` and `triggers`, belong to the type structural_tag."""

    type: Short = "text"
    json_schema: JsonSchemaFormat | None = None
    format: dict[str, Any] | None = None
    structures: list[dict[str, Any]] | None = None
    triggers: list[str] | None = None


class SamplingFields(Struct, kw_only=True):
    """What chat and completion requests have in common. `None` means: not said."""

    model: Annotated[str, Meta(max_length=1024)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    n: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = None
    ignore_eos: bool | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    skip_special_tokens: bool | None = None
    spaces_between_special_tokens: bool | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None

    add_special_tokens: bool | None = None
    priority: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None
    cache_salt: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    request_id: Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,128}$")] | None = None
    timeout: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    user: str | None = None

    response_format: ResponseFormat | None = None
    structured_outputs: dict[str, Any] | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None

    # Declared to be refused (refusals.py).
    use_beam_search: bool | None = None
    best_of: int | None = None
    logits_processors: Any = None


class CompletionRequest(SamplingFields, kw_only=True):
    prompt: str | Annotated[list[str | int | list[int]], Meta(max_length=MAX_PROMPT_TOKENS)] | None = None
    echo: bool | None = None
    logprobs: int | None = None
    return_progress: bool | None = None
    suffix: str | None = None
    prompt_embeds: Any = None
    thinking_token_budget: int | None = None


class ContentPart(Struct, kw_only=True):
    type: Short
    text: str | None = None
    refusal: str | None = None


class FunctionCall(Struct, kw_only=True):
    name: Short
    arguments: str | dict[str, Any] | None = None


class ToolCall(Struct, kw_only=True):
    id: Short | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(Struct, kw_only=True, omit_defaults=True):
    role: Role
    content: str | Annotated[list[str | ContentPart], Meta(max_length=1024)] | None = None
    name: Short | None = None
    tool_calls: Annotated[list[ToolCall], Meta(max_length=512)] | None = None
    tool_call_id: Short | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class FunctionDef(Struct, kw_only=True):
    name: Annotated[str, Meta(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Struct, kw_only=True):
    type: Literal["function"]
    function: FunctionDef


class TemplateFields(SamplingFields, kw_only=True):
    """What decides how messages become a prompt."""

    tools: Annotated[list[dict[str, Any]], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template: Annotated[str, Meta(max_length=262_144)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    include_reasoning: bool | None = None
    thinking_token_budget: int | None = None
    documents: Annotated[list[dict[str, Any]], Meta(max_length=1024)] | None = None


class ChatCompletionRequest(TemplateFields, kw_only=True):
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    echo: bool | None = None
    return_progress: bool | None = None
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None


class TokenizeRequest(TemplateFields, kw_only=True):
    """Either `prompt` or `messages`."""

    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(Struct, kw_only=True):
    tokens: TokenIds
    model: Annotated[str, Meta(max_length=1024)] | None = None
    skip_special_tokens: bool = False
