"""What only the worker can check of a request: token ids against the vocabulary, before anything is written.

An id beyond the logits would be a device fault, and a device fault takes every request with it.
"""

from collections.abc import Iterable

from kvasir.errors import UserError
from kvasir.messages import SlotRequest

MAX_BAD_WORD_TOKENS = 1024
"""Longest bad word in tokens; so many output tokens are remembered for each slot."""


def check_request(request: SlotRequest, vocab_size: int) -> None:
    """Raises UserError naming the field, the id and the bound."""
    params = request.params
    _check_ids("logit_bias", params.logit_bias or (), vocab_size)
    _check_ids("allowed_token_ids", params.allowed_token_ids or (), vocab_size)
    _check_ids("stop_token_ids", params.stop_token_ids or (), vocab_size)
    _check_ids("stop_token_ids", request.stop_token_ids, vocab_size)
    if params.thinking is not None:
        tags = (params.thinking.start_token_id, params.thinking.end_token_id)
        _check_ids("thinking", (token_id for token_id in tags if token_id is not None), vocab_size)
    for word in request.bad_words_token_ids:
        _check_ids("bad_words", word, vocab_size)
        if len(word) > MAX_BAD_WORD_TOKENS:
            raise UserError(
                f"a bad word may have {MAX_BAD_WORD_TOKENS} tokens, got {len(word)}. Shorten it.", param="bad_words"
            )


def _check_ids(name: str, ids: Iterable[int], vocab_size: int) -> None:
    for token_id in ids:
        if not 0 <= token_id < vocab_size:
            raise UserError(f"{name} holds token id {token_id}, but ids go from 0 to {vocab_size - 1}.", param=name)
