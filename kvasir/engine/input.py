"""A caller's prompt and parameters to an EngineCoreRequest: checked against the model, everything resolved."""

import hashlib
import os
import struct
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from kvasir.engine.stage import RequestStage
from kvasir.engine.terms import NO_TERMS, RequestTerms
from kvasir.errors import KvasirError, PromptTooLongError, RequestFailedError, UserError
from kvasir.messages import EngineCoreRequest, Prompt, SamplingParams
from kvasir.tokenizer import Tokenizer

MAX_CACHE_SALT_CHARS = 256
MAX_REQUEST_ID_CHARS = 512
MAX_PRIORITY = 2**31 - 1
_PROMPT_KEYS = {"prompt", "prompt_token_ids", "cache_salt"}
_DEFAULT_NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens")


def default_sampling_params(defaults: dict[str, Any], **given: Any) -> SamplingParams:
    """Parameters from a model's generation_config.json, overridden by what the caller gave (not None)."""
    known = {name: defaults[name] for name in _DEFAULT_NAMES if defaults.get(name) is not None}
    if "max_tokens" not in known and defaults.get("max_new_tokens") is not None:
        known["max_tokens"] = defaults["max_new_tokens"]
    known.update((name, value) for name, value in given.items() if value is not None)
    return SamplingParams(**known)


def prompt_text(prompt: Prompt) -> str | None:
    """The text of a prompt that came with one."""
    if isinstance(prompt, str):
        return prompt
    return prompt.get("prompt") if isinstance(prompt, dict) else None  # type: ignore[return-value]


class InputProcessor:
    """Turns prompts into requests. Everything a caller can get wrong is found here, before anything is queued.

    Args:
        tokenizer: None serves token-id prompts only.
        max_model_len: the context, prompt and output together.
        vocab_size: ids the model has rows for.
        eos_token_ids: ids that end an answer.
        default_params: from generation_config.json.
        max_logprobs: most log-probabilities per token that may be asked for; -1 is no bound.
        seed: makes a run reproducible: the k-th request without a seed of its own gets the k-th number of this
            one's series. None draws from the system.
        stages: features that check and enrich requests, in order.
    """

    def __init__(
        self,
        tokenizer: Tokenizer | None,
        *,
        max_model_len: int,
        vocab_size: int,
        eos_token_ids: Sequence[int] = (),
        default_params: dict[str, Any] | None = None,
        max_logprobs: int = 20,
        seed: int | None = 0,
        stages: Sequence[RequestStage] = (),
    ):
        self.tokenizer = tokenizer
        self.max_model_len = max_model_len
        self.vocab_size = vocab_size
        self.eos_token_ids = list(dict.fromkeys(eos_token_ids))
        self.default_params = default_params or {}
        self.max_logprobs = max_logprobs
        self._seed = seed
        self._num_seeded = 0
        self._stages = tuple(stages)

    def default_sampling_params(self, **given: Any) -> SamplingParams:
        return default_sampling_params(self.default_params, **given)

    def process(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        arrival_time: float | None = None,
        terms: RequestTerms = NO_TERMS,
    ) -> EngineCoreRequest:
        """Checks and resolves. The caller's `params` stay as they are.

        Raises:
            UserError: the request is wrong; PromptTooLongError when it is the prompt's length.
            RequestFailedError: a stage failed on this request.
        """
        self._check_names(request_id, priority)
        self.check(params)
        if isinstance(prompt, dict):
            cache_salt = cache_salt if cache_salt is not None else prompt.get("cache_salt")  # type: ignore[assignment]
        ids = self._truncated(self._token_ids(prompt), params.truncate_prompt_tokens)
        room = self._room(len(ids), params)
        if params.max_tokens is None:
            params = msgspec.structs.replace(params, max_tokens=room)
        request = EngineCoreRequest(
            request_id=request_id,
            prompt_token_ids=ids,
            params=params,
            seed=self._resolved_seed(params.seed),
            arrival_time=time.time() if arrival_time is None else arrival_time,
            stop_token_ids=self._stop_ids(params),
            eos_token_ids=self.eos_token_ids,
            bad_words_token_ids=self._bad_words(params.bad_words or ()),
            priority=priority,
            cache_salt=_checked_salt(cache_salt),
            tenant=terms.tenant,
            weight=terms.weight,
            deadline=terms.deadline,
        )
        for stage in self._stages:
            request = _guarded(stage, lambda stage=stage, r=request: stage.enrich(r))
        return request

    def is_slow(self, params: SamplingParams) -> bool:
        """Whether `check` of these takes longer than an event loop may wait."""
        return any(_guarded(stage, lambda stage=stage: stage.is_slow(params)) for stage in self._stages)

    def check(self, params: SamplingParams) -> None:
        """All that can be found out without the prompt; what `process` finds again is remembered by the stages.

        Raises:
            UserError: the parameters are wrong. RequestFailedError: a stage failed on them.
        """
        self._check_params(params)
        for stage in self._stages:
            _guarded(stage, lambda stage=stage: stage.check(params))

    def _token_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self._encoded(prompt)
        if isinstance(prompt, dict):
            unknown = sorted(set(prompt) - _PROMPT_KEYS)
            if unknown:
                raise UserError(f"a prompt may hold {sorted(_PROMPT_KEYS)}, got {unknown}.", param="prompt")
            if prompt.get("prompt_token_ids") is None:
                return self._encoded(prompt.get("prompt"))
            ids: Any = prompt["prompt_token_ids"]  # type: ignore[typeddict-item]
        else:
            ids = prompt
        if not isinstance(ids, (list, tuple)):
            raise UserError(
                f"a prompt is text, a list of token ids, or a dict with one of them; got {type(ids).__name__}.",
                param="prompt",
            )
        if not set(map(type, ids)) <= {int}:
            wrong = next(i for i in ids if type(i) is not int)
            raise UserError(f"token ids must be whole numbers, got {wrong!r:.80}.", param="prompt")
        if ids and not (min(ids) >= 0 and max(ids) < self.vocab_size):
            wrong = next(i for i in ids if not 0 <= i < self.vocab_size)
            raise UserError(f"token id {wrong} is outside the vocabulary (0 to {self.vocab_size - 1}).", param="prompt")
        return list(ids)

    def _encoded(self, text: Any) -> list[int]:
        if not isinstance(text, str):
            raise UserError(f"the prompt's text must be a string, got {text!r:.80}.", param="prompt")
        if self.tokenizer is None:
            raise UserError(
                "a text prompt needs a tokenizer, and this engine runs without one: send token ids.", param="prompt"
            )
        return self.tokenizer.encode(text)

    def _truncated(self, ids: list[int], keep: int | None) -> list[int]:
        """The last `keep` tokens; -1: as many as leave room for one token of output."""
        if keep is None:
            return ids
        if keep > self.max_model_len:
            raise UserError(
                f"truncate_prompt_tokens is {keep}, the context is {self.max_model_len} tokens.",
                param="truncate_prompt_tokens",
            )
        keep = self.max_model_len - 1 if keep == -1 else keep
        return ids[len(ids) - keep :] if len(ids) > keep else ids

    def _room(self, num_prompt: int, params: SamplingParams) -> int:
        if num_prompt == 0:
            raise UserError("the prompt is empty: it must have at least one token.", param="prompt")
        room = self.max_model_len - num_prompt
        if room < 1:
            raise PromptTooLongError(
                f"the prompt has {num_prompt} tokens, the context is {self.max_model_len} tokens for prompt and output "
                f"together: shorten the prompt to at most {self.max_model_len - 1} tokens, or set "
                "truncate_prompt_tokens.",
                param="prompt",
            )
        if params.max_tokens is None and params.min_tokens > room:
            raise UserError(
                f"min_tokens is {params.min_tokens}, a prompt of {num_prompt} tokens leaves room for {room} in the "
                f"context of {self.max_model_len}.",
                param="min_tokens",
            )
        return room

    def _check_names(self, request_id: str, priority: int) -> None:
        if not isinstance(request_id, str) or not 0 < len(request_id) <= MAX_REQUEST_ID_CHARS:
            raise UserError(
                f"a request id has 1 to {MAX_REQUEST_ID_CHARS} characters, got {request_id!r:.80}.", param="request_id"
            )
        if type(priority) is not int or abs(priority) > MAX_PRIORITY:
            raise UserError(
                f"priority must be a whole number between -{MAX_PRIORITY} and {MAX_PRIORITY}, got {priority!r:.80}.",
                param="priority",
            )

    def _check_params(self, params: SamplingParams) -> None:
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(params, name)
            if asked is None or self.max_logprobs == -1:
                continue
            number = self.vocab_size if asked == -1 else asked
            if number > self.max_logprobs:
                raise UserError(
                    f"{name} asks for {number} per token, the bound is {self.max_logprobs} (--max-logprobs).",
                    param=name,
                )
        for name in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
            ids = getattr(params, name)
            if ids and max(ids) >= self.vocab_size:
                raise UserError(
                    f"{name} has the id {max(ids)}, the vocabulary ends at {self.vocab_size - 1}.", param=name
                )
        if self.tokenizer is None and (params.stop or params.bad_words):
            name = "stop" if params.stop else "bad_words"
            raise UserError(f"{name} needs a tokenizer, and this engine runs without one.", param=name)

    def _resolved_seed(self, given: int | None) -> int:
        if given is not None:
            return given % 2**64
        if self._seed is None:
            return int.from_bytes(os.urandom(8), "little")
        self._num_seeded += 1
        text = struct.pack("<QQ", self._seed % 2**64, self._num_seeded)
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")

    def _stop_ids(self, params: SamplingParams) -> list[int]:
        eos = [] if params.ignore_eos else self.eos_token_ids
        return list(dict.fromkeys([*eos, *(params.stop_token_ids or ())]))

    def _bad_words(self, words: Sequence[str]) -> list[list[int]]:
        """Each word as it is spelled at the start of a line and, where that differs, behind a blank."""
        spellings: dict[tuple[int, ...], None] = {}
        for word in words:
            assert self.tokenizer is not None  # checked with the params
            for text in (word.lstrip(), " " + word.lstrip()):
                ids = tuple(self.tokenizer.encode(text, add_special_tokens=False))
                if ids:
                    spellings[ids] = None
            if ids and max(ids) >= self.vocab_size:
                raise UserError(
                    f"bad word {word!r:.80} has token id {max(ids)}, the vocabulary ends at {self.vocab_size - 1}.",
                    param="bad_words",
                )
        return [list(ids) for ids in spellings]


def _checked_salt(salt: Any) -> str | None:
    if salt is None:
        return None
    if not isinstance(salt, str) or not 0 < len(salt) <= MAX_CACHE_SALT_CHARS:
        raise UserError(
            f"cache_salt must be a text of 1 to {MAX_CACHE_SALT_CHARS} characters, got {salt!r:.80}.",
            param="cache_salt",
        )
    return salt


def _guarded(stage: RequestStage, call: Any) -> Any:
    """A stage's own bug fails this request only, with a text that names the stage."""
    try:
        return call()
    except KvasirError:
        raise
    except Exception as error:
        raise RequestFailedError(f"{type(stage).__name__} failed on this request: {error}") from error
