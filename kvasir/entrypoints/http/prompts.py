"""Prompts and messages -> token ids."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from kvasir.entrypoints.http.body import check_depth
from kvasir.entrypoints.http.schema import (
    MAX_PROMPT_TOKENS,
    MAX_PROMPTS,
    ChatCompletionRequest,
    ChatMessage,
    ContentPart,
    SamplingFields,
    TemplateFields,
    Tool,
)
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import PromptTooLongError, UserError

if TYPE_CHECKING:
    from kvasir.tokenizer import Tokenizer

_CHARS_PER_TOKEN = 256
"""No tokenizer in use has longer tokens: a text with more characters a token of context is refused unread."""
_TOKENIZE_ON_THREAD_CHARS = 2048
"""Longer texts are tokenized on a thread: half a millisecond here is one for each stream. The handing over takes 20 us,
and the tokenizer lets go of the interpreter's lock."""
_RENDER_ON_THREAD_CHARS = 8192
"""Templates are Python and keep the lock, so a thread only lets others in between."""

R = TypeVar("R")


class RenderedPrompt(msgspec.Struct):
    """A prompt as the engine takes it; `text` is None where the caller sent ids."""

    token_ids: list[int]
    text: str | None = None


class PromptRenderer:
    """Turns what requests hold into `RenderedPrompt`s."""

    def __init__(self, tokenizer: "Tokenizer | None", settings: ServerSettings, max_model_len: int):
        self._tokenizer = tokenizer
        self._settings = settings
        self._max_model_len = max_model_len

    @property
    def tokenizer(self) -> "Tokenizer":
        if self._tokenizer is None:
            raise UserError("this server runs without a tokenizer: send token ids to /v1/completions.")
        return self._tokenizer

    async def text(self, text: str, *, add_special_tokens: bool = True) -> RenderedPrompt:
        encode = self.tokenizer.encode
        on_thread = len(text) > _TOKENIZE_ON_THREAD_CHARS
        ids = await _off_loop(on_thread, lambda: encode(text, add_special_tokens=add_special_tokens))
        return RenderedPrompt(list(ids), text)

    async def completion(self, prompt: str | list[Any] | None, request: SamplingFields) -> list[RenderedPrompt]:
        """One per prompt of a completion request: text, ids, or a list of either."""
        add_special = request.add_special_tokens is not False
        rendered = []
        for p in _split(prompt):
            if isinstance(p, list):
                rendered.append(RenderedPrompt(list(p)))
            else:
                self._check_chars(len(p), request, "prompt")
                rendered.append(await self.text(p, add_special_tokens=add_special))
            self._truncate(rendered[-1], request)
        return rendered

    async def chat(self, messages: list[ChatMessage], request: TemplateFields) -> RenderedPrompt:
        template, kwargs, tools = self._template_inputs(request)
        if request.continue_final_message and request.add_generation_prompt:
            raise UserError(
                "continue_final_message continues the last message, add_generation_prompt starts one: set only one.",
                param="continue_final_message",
            )
        generation_prompt = request.add_generation_prompt
        if generation_prompt is None:
            generation_prompt = not request.continue_final_message
        plain = [_plain(i, m) for i, m in enumerate(messages)]
        source = template or self.tokenizer.chat_template or ""
        for message in plain:
            _spell_reasoning(message, source)
        if "developer" not in source:
            for message in plain:  # OpenAI's newer word for the system's role, which few templates know
                if message["role"] == "developer":
                    message["role"] = "system"
        num_chars = sum(len(m.get("content") or "") for m in plain)
        self._check_chars(num_chars, request, "messages")
        apply = self.tokenizer.apply_chat_template
        text = await _off_loop(
            num_chars > _RENDER_ON_THREAD_CHARS,
            lambda: apply(
                plain,
                tools=tools,
                add_generation_prompt=generation_prompt,
                continue_final_message=bool(request.continue_final_message),
                chat_template=template,
                **kwargs,
            ),
        )
        prompt = await self.text(text, add_special_tokens=bool(request.add_special_tokens))
        self._truncate(prompt, request)
        return prompt

    def _template_inputs(
        self, request: TemplateFields
    ) -> tuple[str | None, dict[str, Any], list[dict[str, Any]] | None]:
        if request.chat_template is not None and not self._settings.trust_request_chat_template:
            raise UserError(
                "this server does not take chat templates from requests (--trust-request-chat-template turns that on).",
                param="chat_template",
            )
        kwargs = {
            **self._settings.default_chat_template_kwargs,
            **_effort(request.reasoning_effort),
            **(request.chat_template_kwargs or {}),
        }
        taken = {
            "messages",
            "tools",
            "add_generation_prompt",
            "continue_final_message",
            "chat_template",
        } & kwargs.keys()
        if taken:
            raise UserError(f"chat_template_kwargs may not hold {sorted(taken)[0]}.", param="chat_template_kwargs")
        check_depth(kwargs, "chat_template_kwargs")
        if request.documents:
            check_depth(request.documents, "documents")
            kwargs["documents"] = request.documents
        tools = None
        if request.tools and request.tool_choice != "none":
            check_depth(request.tools, "tools")
            tools = [_checked_tool(i, tool) for i, tool in enumerate(request.tools)]
        return request.chat_template or self._settings.chat_template, kwargs, tools

    def _check_chars(self, num_chars: int, request: SamplingFields, param: str) -> None:
        """Megabytes of text cost seconds of a core; what cannot fit is refused before that."""
        bound = self._max_model_len * _CHARS_PER_TOKEN
        if num_chars > bound and request.truncate_prompt_tokens is None:
            raise PromptTooLongError(
                f"the prompt has {num_chars} characters, more than could fit into the model's context of "
                f"{self._max_model_len} tokens. Shorten the prompt.",
                param=param,
            )

    def _truncate(self, prompt: RenderedPrompt, request: SamplingFields) -> None:
        """Keeps the last `truncate_prompt_tokens` ids; -1 keeps what fits with one token of room."""
        keep = request.truncate_prompt_tokens
        if keep is not None:
            if keep < -1 or keep == 0:
                raise UserError(
                    f"truncate_prompt_tokens must be -1 or at least 1, got {keep}.", param="truncate_prompt_tokens"
                )
            keep = self._max_model_len - 1 if keep == -1 else keep
            if len(prompt.token_ids) > keep:
                prompt.token_ids = prompt.token_ids[-keep:]
                prompt.text = None  # it says more than the ids do
        if not prompt.token_ids:
            raise UserError(
                "the prompt is empty: there is nothing to continue. Send at least one token.", param="prompt"
            )


def echoed_text(request: ChatCompletionRequest) -> str:
    """The message that the answer continues, for chats that want it in front of the answer."""
    last = request.messages[-1]
    if not request.continue_final_message or last.role != "assistant":
        raise UserError("echo needs continue_final_message and an assistant message at the end.", param="echo")
    content = last.content or ""
    return (
        content if isinstance(content, str) else content_text(content, f"messages[{len(request.messages) - 1}].content")
    )


def _effort(effort: str | None) -> dict[str, Any]:
    """What templates know of how hard to think: a word, or a switch, which has two names in use."""
    if effort is None:
        return {}
    switches = {"enable_thinking": False, "thinking": False} if effort == "none" else {}
    return {"reasoning_effort": effort, **switches}


async def _off_loop(on_thread: bool, fn: Callable[[], R]) -> R:
    return await asyncio.to_thread(fn) if on_thread else fn()


def _split(prompt: str | list[Any] | None) -> list[str | list[int]]:
    """str | [str] | [int] | [[int]] -> list of prompts; mixtures are refused."""
    if prompt is None:
        raise UserError("prompt is required.", param="prompt")
    if isinstance(prompt, str):
        return [prompt]
    if not prompt:
        raise UserError("prompt is an empty list.", param="prompt")
    kinds = {type(p) for p in prompt}
    if len(kinds) > 1:
        raise UserError(
            "prompt must be a text, a list of texts, a list of ids, or a list of lists of ids.", param="prompt"
        )
    many = [prompt] if kinds == {int} else prompt
    if len(many) > MAX_PROMPTS:
        raise UserError(f"prompt may hold {MAX_PROMPTS} prompts, got {len(many)}.", param="prompt")
    for ids in many:
        if isinstance(ids, list):
            _check_ids(ids)
    return many


def _check_ids(ids: list[int]) -> None:
    if len(ids) > MAX_PROMPT_TOKENS:
        raise UserError(f"prompt may hold {MAX_PROMPT_TOKENS} ids, got {len(ids)}.", param="prompt")
    if ids and not (0 <= min(ids) and max(ids) < 2**31):
        raise UserError(f"token ids must be between 0 and {2**31 - 1}, got {min(ids)} to {max(ids)}.", param="prompt")


def _plain(index: int, message: ChatMessage) -> dict[str, Any]:
    """A message as templates read it: content is one text, arguments of earlier calls are objects."""
    plain: dict[str, Any] = msgspec.to_builtins(message)
    content = message.content
    if isinstance(content, list):
        plain["content"] = content_text(content, f"messages[{index}].content")
    elif content is None:
        plain["content"] = "" if message.tool_calls else None
        if not message.tool_calls:
            if message.role != "assistant":
                raise UserError(f"messages[{index}].content is required.", param=f"messages[{index}].content")
            plain["content"] = ""
    for i, call in enumerate(message.tool_calls or ()):
        arguments = call.function.arguments
        plain["tool_calls"][i]["function"]["arguments"] = _arguments(arguments)
        if isinstance(arguments, dict):
            check_depth(arguments, f"messages[{index}].tool_calls[{i}].function.arguments")
    return plain


def _spell_reasoning(message: dict[str, Any], template: str) -> None:
    """Clients have two names for a thought; gpt-oss's template has a third, and none beside content and calls."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    if thought:
        message["reasoning"] = message["reasoning_content"] = thought
        if "message.thinking" in template and not (message.get("content") and message.get("tool_calls")):
            message["thinking"] = thought


def content_text(content: Sequence[str | ContentPart], path: str) -> str:
    """Content in parts as one text."""
    return "\n".join(_part_text(part, f"{path}[{i}]") for i, part in enumerate(content))


def _part_text(part: str | ContentPart, path: str) -> str:
    if isinstance(part, str):
        return part
    text = part.refusal if part.type == "refusal" else part.text
    if part.type in ("text", "input_text", "output_text", "refusal") and text is not None:
        return text
    if part.type in ("text", "input_text", "output_text", "refusal"):
        raise UserError(f"{path} has no text.", param=path)
    raise UserError(f"{path} has type {part.type!r:.40}; this model reads text parts only.", param=path)


def _arguments(arguments: str | dict[str, Any] | None) -> str | dict[str, Any]:
    """Models are trained on objects; a call that was broken when it was made is shown as it was."""
    if not isinstance(arguments, str):
        return arguments or {}
    try:
        parsed = msgspec.json.decode(arguments)
        check_depth(parsed, "arguments")
    except (msgspec.DecodeError, RecursionError, UserError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _checked_tool(index: int, tool: dict[str, Any]) -> dict[str, Any]:
    """The tool as it was sent, in the caller's order of keys, once it has the right shape."""
    try:
        msgspec.convert(tool, Tool)
    except msgspec.ValidationError as e:
        raise UserError(f"tools[{index}]: {str(e).replace('`', '')}.", param=f"tools[{index}]") from None
    return tool
