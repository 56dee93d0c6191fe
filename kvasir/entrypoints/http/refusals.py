"""What this server cannot do, in one table: a request that asks for it is told so, not given something else."""

from collections.abc import Callable
from typing import Any

from kvasir.entrypoints.http.schema import SamplingFields
from kvasir.errors import UserError


def _given(value: Any) -> bool:
    return value not in (None, False, "", [], {})


# field -> (does this value ask for it?, what to say)
_REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "use_beam_search": (_given, "beam search is not available; sample with n and compare logprobs."),
    "logits_processors": (_given, "logits processors cannot be sent over HTTP."),
    "suffix": (_given, "suffix (fill in the middle) is not available."),
    "prompt_embeds": (_given, "prompt_embeds is not available; send text or token ids."),
    "functions": (_given, "functions is OpenAI's old spelling; send tools."),
    "function_call": (lambda v: _given(v) and v not in ("none", "auto"), "send tool_choice instead of function_call."),
    "modalities": (lambda v: bool(v) and v != ["text"], "only the text modality is available."),
    "audio": (_given, "audio is not available."),
}


def check_refusals(request: SamplingFields) -> None:
    for name in request.__struct_fields__:
        rule = _REFUSED.get(name)
        if rule is not None and rule[0](getattr(request, name)):
            raise UserError(rule[1], param=name)
    if request.best_of is not None and request.best_of != (request.n or 1):
        raise UserError(
            f"best_of ({request.best_of}) must equal n ({request.n or 1}): no ranking is done.", param="best_of"
        )
    if request.stream_options is not None and not request.stream:
        raise UserError("stream_options needs stream=true.", param="stream_options")
    if getattr(request, "return_progress", None) and not request.stream:
        raise UserError("return_progress needs stream=true.", param="return_progress")
