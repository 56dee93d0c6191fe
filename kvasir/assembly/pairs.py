"""The one table of feature x feature: works, needs something, or is refused with a sentence.

A row is the reason why no other file compares two features. Options are checked once, at start; a pair that only
a request can complete names the request's side as `request.<field>`; `RequestPairs` asks those.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kvasir.config import KvasirConfig
from kvasir.errors import ConfigError, UserError
from kvasir.messages import EngineCoreRequest, SamplingParams


class Verdict(Enum):
    WORKS = "works"
    NEEDS = "needs"
    REFUSED = "refused"


@dataclass(frozen=True)
class Pair:
    """Two features and what becomes of them together.

    Attributes:
        sentence: how it works, what it needs, or why it is refused, with `{left}`-style places for `values`.
        broken: for NEEDS and REFUSED between options: whether this config breaks the rule; None for pairs that
            are kept by construction or checked per request.
        values: numbers for the sentence.
    """

    left: str
    right: str
    verdict: Verdict
    sentence: str
    broken: Callable[[KvasirConfig], bool] | None = None
    values: Callable[[KvasirConfig], Mapping[str, Any]] = lambda config: {}


def _smallest_cache(config: KvasirConfig) -> Mapping[str, Any]:
    needed = -(-config.model.max_model_len // config.cache.block_size)
    return {"have": config.cache.num_gpu_blocks_override, "need": needed, "len": config.model.max_model_len}


PAIRS: tuple[Pair, ...] = (
    Pair(
        "no-chunked-prefill",
        "max_num_batched_tokens",
        Verdict.NEEDS,
        "without chunked prefill a prompt runs in one step, so max_num_batched_tokens ({budget}) must reach "
        "max_model_len ({len}). Raise the first, lower the second, or leave chunked prefill on.",
        lambda c: not c.scheduler.enable_chunked_prefill and c.scheduler.max_num_batched_tokens < c.model.max_model_len,
        lambda c: {"budget": c.scheduler.max_num_batched_tokens, "len": c.model.max_model_len},
    ),
    Pair(
        "no-chunked-prefill",
        "long_prefill_token_threshold",
        Verdict.REFUSED,
        "long_prefill_token_threshold ({threshold}) splits prompts, and --no-enable-chunked-prefill forbids it; "
        "drop one of the two.",
        lambda c: not c.scheduler.enable_chunked_prefill and c.scheduler.long_prefill_token_threshold > 0,
        lambda c: {"threshold": c.scheduler.long_prefill_token_threshold},
    ),
    Pair(
        "max_num_seqs",
        "max_num_batched_tokens",
        Verdict.NEEDS,
        "every running request needs a token of the step: max_num_batched_tokens ({budget}) must reach max_num_seqs "
        "({seqs}).",
        lambda c: c.scheduler.max_num_batched_tokens < c.scheduler.max_num_seqs,
        lambda c: {"budget": c.scheduler.max_num_batched_tokens, "seqs": c.scheduler.max_num_seqs},
    ),
    Pair(
        "num_gpu_blocks_override",
        "max_model_len",
        Verdict.NEEDS,
        "num_gpu_blocks_override is {have}, but one request of max_model_len ({len} tokens) fills {need} blocks. "
        "Raise the first or lower the second.",
        lambda c: (
            c.cache.num_gpu_blocks_override is not None
            and c.cache.num_gpu_blocks_override * c.cache.block_size < c.model.max_model_len
            and not c.model.max_model_len_is_auto
        ),
        _smallest_cache,
    ),
    Pair(
        "attention_backend=triton, flash_attn, flashinfer",
        "device=cpu",
        Verdict.REFUSED,
        "the {name} attention backend needs a card; on CPU use --attention-backend cpu or leave it out.",
        lambda c: c.attention.attention_backend in ("triton", "flash_attn", "flashinfer") and c.device.device == "cpu",
        lambda c: {"name": c.attention.attention_backend},
    ),
    Pair(
        "attention_backend=cpp, cpu",
        "device=cuda",
        Verdict.REFUSED,
        "the cpp and cpu attention backends compute on the CPU only; on a card use --attention-backend triton or "
        "leave it out.",
        lambda c: c.attention.attention_backend in ("cpp", "cpu") and c.device.device == "cuda",
    ),
    Pair(
        "optimization_level",
        "cudagraph_mode",
        Verdict.WORKS,
        "graphs are captured after the model is compiled: a replay runs the compiled pieces.",
    ),
    Pair(
        "optimization_level",
        "enforce_eager",
        Verdict.WORKS,
        "enforce_eager wins: nothing is compiled and nothing is captured.",
    ),
    Pair(
        "request.prompt_logprobs",
        "enable_prefix_caching",
        Verdict.WORKS,
        "a request for prompt_logprobs computes its whole prompt and reads no shared blocks; others may read its.",
    ),
    Pair(
        "request.cache_salt",
        "enable_prefix_caching",
        Verdict.WORKS,
        "the salt is part of every block's name: prefixes are shared within one salt only.",
    ),
    Pair(
        "request.priority",
        "scheduling_policy=fcfs",
        Verdict.REFUSED,
        "priority is set, but the engine's --scheduling-policy heeds none; start it with --scheduling-policy priority "
        "or fair, or leave priority at 0.",
    ),
    Pair(
        "request.structured_outputs",
        "skip_tokenizer_init",
        Verdict.REFUSED,
        "a grammar is about text, and this engine runs without a tokenizer; start it without skip_tokenizer_init.",
    ),
    Pair(
        "request.structured_outputs",
        "async_scheduling",
        Verdict.WORKS,
        "the forward pass of the next step runs while the grammar takes in the token before it; only the choice of the "
        "next token waits for the mask.",
    ),
    Pair(
        "request.structured_outputs",
        "preemption",
        Verdict.WORKS,
        "the automaton goes on with the request; after a restart of the core it is led through the tokens again.",
    ),
    Pair(
        "request.structured_outputs",
        "request.min_tokens",
        Verdict.WORKS,
        "both hold: where the grammar allows nothing but the end before min_tokens is reached, the request fails with "
        "a sentence.",
    ),
    Pair(
        "request.structured_outputs",
        "request.ignore_eos",
        Verdict.WORKS,
        "the grammar ends with the end token; what follows it is free.",
    ),
    Pair(
        "async_scheduling",
        "preemption",
        Verdict.WORKS,
        "a preempted request keeps the token of the step in flight and goes on after it.",
    ),
    Pair(
        "async_scheduling",
        "enable_prefix_caching",
        Verdict.WORKS,
        "blocks of a step in flight may be hit by the next step, since its work runs after.",
    ),
)


def check_pairs(config: KvasirConfig) -> None:
    """Asks every row that two options can break.

    Raises:
        ConfigError: the row's sentence.
    """
    for pair in PAIRS:
        if pair.broken is not None and pair.broken(config):
            raise ConfigError(f"{pair.left} with {pair.right}: {pair.sentence.format(**pair.values(config))}")


class RequestPairs:
    """The table's request side, as a `RequestStage` of the front."""

    def __init__(self, config: KvasirConfig):
        self._takes_priority = config.scheduler.scheduling_policy in ("priority", "fair")
        self._has_tokenizer = not config.model.skip_tokenizer_init

    def is_slow(self, params: SamplingParams) -> bool:
        return False

    def check(self, params: SamplingParams) -> None:
        if params.structured_outputs is not None and not self._has_tokenizer:
            raise UserError(_sentence("request.structured_outputs", "skip_tokenizer_init"), param="structured_outputs")

    def enrich(self, request: EngineCoreRequest) -> EngineCoreRequest:
        if request.priority and not self._takes_priority:
            raise UserError(_sentence("request.priority", "scheduling_policy=fcfs"), param="priority")
        return request

    def finish(self, request_id: str) -> None:
        """Nothing was taken."""


def _sentence(left: str, right: str) -> str:
    return next(p.sentence for p in PAIRS if (p.left, p.right) == (left, right))
