"""What a caller may ask of sampling and pooling; checked field by field, each error names value and bound."""

import enum
import math
from typing import Any

import msgspec

from kvasir.errors import UserError
from kvasir.messages.structured import StructuredOutputsParams
from kvasir.messages.thinking import ThinkingBudget

MAX_N = 128
MAX_STOP_STRINGS = 64
MAX_STOP_CHARS = 1024
MAX_LOGIT_BIAS = 1024
MAX_BAD_WORDS = 256
MAX_ALLOWED_TOKEN_IDS = 65_536
MAX_STOP_TOKEN_IDS = 256
GREEDY_EPS = 1e-5
"""Below this temperature sampling is greedy."""


class RequestOutputKind(enum.IntEnum):
    CUMULATIVE = 0  # every RequestOutput holds all text so far
    DELTA = 1  # only what is new
    FINAL_ONLY = 2  # one output, at the end


def _range(name: str, value: float, low: float, high: float, hint: str = "") -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UserError(f"{name} must be a number, got {value!r}.", param=name)
    if not (math.isfinite(value) and low <= value <= high):
        raise UserError(f"{name} must be between {low} and {high}, got {value}.{hint}", param=name)


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{name} must be a whole number, got {value!r}.", param=name)
    if not low <= value <= high:
        raise UserError(f"{name} must be between {low} and {high}, got {value}.", param=name)


def _ids(name: str, values: Any, bound: int) -> None:
    if len(values) > bound:
        raise UserError(f"{name} may hold {bound} ids, got {len(values)}.", param=name)
    for v in values:
        _whole(name, v, 0, 2**31 - 1)


class SamplingParams(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How to sample; the same fields and defaults as vLLM's class of this name.

    Raises:
        UserError: a field is out of its bounds (the text has the value and the bound).
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: list[str] | str | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    truncate_prompt_tokens: int | None = None
    skip_reading_prefix_cache: bool | None = None
    structured_outputs: StructuredOutputsParams | None = None
    guided_decoding: StructuredOutputsParams | None = None  # the older name of the same
    thinking: ThinkingBudget | None = None
    extra_args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            self.stop = [self.stop]
        self.stop = list(self.stop or [])
        self.stop_token_ids = list(self.stop_token_ids or [])
        self._check_numbers()
        self._check_lists()
        self._read_structure()
        if self.top_k == -1:  # both spellings of "off" are in use
            self.top_k = 0
        if self.greedy:  # nothing to cut when the best token is taken
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_EPS

    def _check_numbers(self) -> None:
        _whole("n", self.n, 1, MAX_N)
        _range("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _range("repetition_penalty", self.repetition_penalty, 1e-3, 100.0)
        _range("temperature", self.temperature, 0.0, 100.0)
        _range("top_p", self.top_p, 0.0, 1.0, " 1 turns it off.")
        if self.top_p == 0.0:
            raise UserError("top_p must be above 0, got 0.0. For greedy decoding set temperature to 0.", param="top_p")
        _whole("top_k", self.top_k, -1, 2**31 - 1)
        _range("min_p", self.min_p, 0.0, 1.0)
        if self.seed is not None:
            _whole("seed", self.seed, -(2**63), 2**64 - 1)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, 1, 2**31 - 1)
        _whole("min_tokens", self.min_tokens, 0, 2**31 - 1)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise UserError(
                f"min_tokens ({self.min_tokens}) may not exceed max_tokens ({self.max_tokens}).", param="min_tokens"
            )
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, -1, 2**31 - 1)
        if self.prompt_logprobs is not None:
            _whole("prompt_logprobs", self.prompt_logprobs, -1, 2**31 - 1)
        if self.truncate_prompt_tokens is not None:
            _whole("truncate_prompt_tokens", self.truncate_prompt_tokens, -1, 2**31 - 1)

    def _check_lists(self) -> None:
        stop = self.stop or []
        if len(stop) > MAX_STOP_STRINGS:
            raise UserError(f"stop may hold {MAX_STOP_STRINGS} strings, got {len(stop)}.", param="stop")
        for s in stop:
            if not isinstance(s, str) or not s:
                raise UserError(f"stop must hold non-empty strings, got {s!r}.", param="stop")
            if len(s) > MAX_STOP_CHARS:
                raise UserError(f"a stop string may have {MAX_STOP_CHARS} characters, got {len(s)}.", param="stop")
        if stop and not self.detokenize:
            raise UserError("stop strings need detokenize=True: they are found in the text.", param="stop")
        _ids("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKEN_IDS)
        if self.logit_bias is not None:
            if len(self.logit_bias) > MAX_LOGIT_BIAS:
                raise UserError(
                    f"logit_bias may hold {MAX_LOGIT_BIAS} entries, got {len(self.logit_bias)}.", param="logit_bias"
                )
            for token, bias in self.logit_bias.items():
                _whole("logit_bias", token, 0, 2**31 - 1)
                _range(f"logit_bias[{token}]", bias, -100.0, 100.0)
        if self.allowed_token_ids is not None:
            if not self.allowed_token_ids:
                raise UserError("allowed_token_ids is empty: no token could be sampled.", param="allowed_token_ids")
            _ids("allowed_token_ids", self.allowed_token_ids, MAX_ALLOWED_TOKEN_IDS)
        if self.bad_words is not None:
            if len(self.bad_words) > MAX_BAD_WORDS:
                raise UserError(
                    f"bad_words may hold {MAX_BAD_WORDS} words, got {len(self.bad_words)}.", param="bad_words"
                )
            for word in self.bad_words:
                if not isinstance(word, str) or not word or len(word) > MAX_STOP_CHARS:
                    raise UserError(
                        f"bad_words must hold strings of 1 to {MAX_STOP_CHARS} characters, got {word!r:.80}.",
                        param="bad_words",
                    )

    def _read_structure(self) -> None:
        if self.guided_decoding is not None:
            if self.structured_outputs is not None:
                raise UserError("guided_decoding is the older name of structured_outputs: set one of the two.")
            self.structured_outputs, self.guided_decoding = self.guided_decoding, None
        given = self.structured_outputs
        if isinstance(given, dict):
            self.structured_outputs = msgspec.convert(given, StructuredOutputsParams)
        elif given is not None and not isinstance(given, StructuredOutputsParams):
            raise UserError(
                f"structured_outputs must be StructuredOutputsParams, got {type(given).__name__}.",
                param="structured_outputs",
            )

    def clone(self) -> "SamplingParams":
        return msgspec.structs.replace(self)


class PoolingParams(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How to turn hidden states into a vector or a score (served once pooling models are)."""

    dimensions: int | None = None
    use_activation: bool | None = None
    task: str | None = None
