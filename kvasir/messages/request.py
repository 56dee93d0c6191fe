"""EngineCoreRequest: front -> core. Carries all that is needed to resume a request from nothing."""

from typing import Any

import msgspec

from kvasir.messages.params import SamplingParams


class EngineCoreRequest(msgspec.Struct, array_like=True, omit_defaults=True):
    """One request, or what is left of one: `output_token_ids` are those the front already has.

    The border between prompt and output is kept on resubmission, since penalties, min / max
    tokens, usage, grammars and echo depend on it.

    Attributes:
        request_id: unique within the engine.
        prompt_token_ids: never empty.
        params: checked by the front; `max_tokens` resolved to a number; bounds against the
            model's context are checked by the front too.
        seed: resolved 64-bit seed (unsigned); noise is a function of (seed, absolute position).
        arrival_time: `time.time()` at the front, kept on resubmission.
        output_token_ids: tokens already emitted to the front (empty at first).
        stop_token_ids: every id that ends the request: eos ids (unless ignore_eos) and the caller's.
        eos_token_ids: the model's own end ids, masked while fewer than `min_tokens` were produced.
        bad_words_token_ids: `params.bad_words` as token ids, every spelling.
        priority: lower runs first.
        cache_salt: part of every block hash: requests share prefixes only within one salt.
        client_index: which front process asked.
        parts: data of rank 9 features by name, empty when none is asked for.
        tenant: whose share of the engine it takes (the API key's name); empty for all who have none.
        weight: of the tenant, beside others (`--scheduling-policy fair`).
        deadline: `time.time()` by which the front will have ended it; 0.0 without one.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    seed: int
    arrival_time: float
    output_token_ids: list[int] = []
    stop_token_ids: list[int] = []
    eos_token_ids: list[int] = []
    bad_words_token_ids: list[list[int]] = []
    priority: int = 0
    cache_salt: str | None = None
    client_index: int = 0
    parts: dict[str, Any] = {}
    tenant: str = ""
    weight: float = 1.0
    deadline: float = 0.0
