"""A request's fields -> `SamplingParams`: what the request says, else generation_config.json, else the default."""

from typing import Any

from kvasir.entrypoints.http.constraints import structure_of
from kvasir.entrypoints.http.schema import ChatCompletionRequest, CompletionRequest, SamplingFields
from kvasir.errors import PromptTooLongError, UserError
from kvasir.messages import RequestOutputKind, SamplingParams

DEFAULT_COMPLETION_TOKENS = 16
MAX_FANOUT = 2048
"""Answers one HTTP request may ask for: prompts x n."""

_COPIED = tuple(
    name
    for name in SamplingParams.__struct_fields__
    if name in SamplingFields.__struct_fields__
    and name not in ("max_tokens", "prompt_logprobs", "truncate_prompt_tokens", "structured_outputs")
)


class Limits:
    """What the model allows; read once from the engine's config."""

    def __init__(self, max_model_len: int, max_logprobs: int):
        self.max_model_len = max_model_len
        self.max_logprobs = max_logprobs

    def check_logprobs(self, name: str, value: int | None) -> None:
        if value is None or (value == -1 and self.max_logprobs == -1):
            return
        bound = "any number" if self.max_logprobs == -1 else str(self.max_logprobs)
        if value < 0 or (self.max_logprobs != -1 and value > self.max_logprobs):
            raise UserError(f"{name} must be between 0 and {bound} (--max-logprobs), got {value}.", param=name)

    def room(self, num_prompt: int, param: str) -> int:
        """Tokens that may follow the prompt; at least one."""
        if num_prompt >= self.max_model_len:
            raise PromptTooLongError(
                f"the prompt has {num_prompt} tokens, which leaves no room for an answer: the model's context is "
                f"{self.max_model_len} tokens (--max-model-len). Shorten the prompt.",
                param=param,
            )
        return self.max_model_len - num_prompt

    def check_fits(self, num_prompt: int, max_tokens: int, name: str) -> None:
        if num_prompt + max_tokens > self.max_model_len:
            raise PromptTooLongError(
                f"the prompt has {num_prompt} tokens and {name} is {max_tokens}: together {num_prompt + max_tokens}, "
                f"but the model's context is {self.max_model_len} tokens. Shorten the prompt or lower {name} to "
                f"{max(self.max_model_len - num_prompt, 0)}.",
                param=name,
            )


def chat_params(
    request: ChatCompletionRequest,
    num_prompt: int,
    limits: Limits,
    defaults: dict[str, Any],
    clip_max_tokens: bool = False,
) -> SamplingParams:
    if request.top_logprobs is not None and not request.logprobs and request.top_logprobs > 0:
        raise UserError("top_logprobs needs logprobs=true.", param="top_logprobs")
    limits.check_logprobs("top_logprobs", request.top_logprobs)
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    asked = getattr(request, name)
    room = limits.room(num_prompt, "messages")
    if asked is None:
        asked = min(room, defaults.get("max_tokens") or room)
    else:
        _check_positive(asked, name)
        asked = min(asked, room) if clip_max_tokens else asked
        limits.check_fits(num_prompt, asked, name)
    _check_prompt_logprobs(request, limits)
    return _params(
        request,
        defaults,
        max_tokens=asked,
        logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        prompt_logprobs=request.prompt_logprobs,
    )


def completion_params(
    request: CompletionRequest, num_prompt: int, limits: Limits, defaults: dict[str, Any]
) -> SamplingParams:
    if request.thinking_token_budget is not None:
        raise UserError("a completion has no thoughts to bound; send a chat.", param="thinking_token_budget")
    limits.check_logprobs("logprobs", request.logprobs)
    _check_prompt_logprobs(request, limits)
    asked = request.max_tokens
    if is_echo_only(request):
        # Scoring: only the prompt's logprobs are wanted. One token is sampled and dropped.
        limits.room(num_prompt, "prompt")
        asked = 1
    elif asked is None:
        asked = min(limits.room(num_prompt, "prompt"), defaults.get("max_tokens") or DEFAULT_COMPLETION_TOKENS)
    else:
        _check_positive(asked, "max_tokens")
        limits.check_fits(num_prompt, asked, "max_tokens")
    prompt_logprobs = request.prompt_logprobs
    if request.echo and request.logprobs is not None:
        prompt_logprobs = max(request.logprobs, prompt_logprobs or 0)
    return _params(request, defaults, max_tokens=asked, logprobs=request.logprobs, prompt_logprobs=prompt_logprobs)


def is_echo_only(request: CompletionRequest) -> bool:
    return bool(request.echo) and request.max_tokens == 0


def _check_positive(value: int, name: str) -> None:
    if value < 1:
        raise UserError(f"{name} must be at least 1, got {value}.", param=name)


def _check_prompt_logprobs(request: SamplingFields, limits: Limits) -> None:
    limits.check_logprobs("prompt_logprobs", request.prompt_logprobs)
    if request.prompt_logprobs is not None and request.stream:
        raise UserError("prompt_logprobs is not available with stream=true.", param="prompt_logprobs")


def _params(request: SamplingFields, defaults: dict[str, Any], **resolved: Any) -> SamplingParams:
    values = {name: defaults[name] for name in _COPIED if defaults.get(name) is not None}
    for name in _COPIED:
        value = getattr(request, name)
        if value is not None:
            values[name] = value
    if values.get("min_tokens", 0) > resolved["max_tokens"] and request.min_tokens is None:
        values.pop("min_tokens")  # a default of the model's must not make a short request fail
    return SamplingParams(
        **values, **resolved, structured_outputs=structure_of(request), output_kind=RequestOutputKind.DELTA
    )
