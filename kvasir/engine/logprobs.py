"""Log-probabilities as the worker sends them, to what a caller reads."""

from kvasir.messages import Logprob, TokenLogprobs
from kvasir.tokenizer import Tokenizer, token_text


def read_position(entry: TokenLogprobs, wanted: int, tokenizer: Tokenizer | None) -> dict[int, Logprob]:
    """Token id -> its log-probability at one position: the chosen token first, then the best in falling order.

    Args:
        wanted: how many of the best (-1: all that were sent). The chosen token comes on top of them.
    """
    ids = entry.token_ids if wanted < 0 else entry.token_ids[: wanted + 1]
    texts = {} if tokenizer is None else tokenizer.pieces.texts
    found: dict[int, Logprob] = {}
    rank = entry.rank  # the first is the chosen token; those behind it are the best, in order
    for place, (token_id, logprob) in enumerate(zip(ids, entry.logprobs, strict=False), start=1):
        if token_id not in found:  # the chosen token is often one of the best as well
            text = texts.get(token_id)
            if text is None and tokenizer is not None:
                text = token_text(tokenizer, token_id)
            found[token_id] = Logprob(logprob, rank, text)
        rank = place
    return found


def read_prompt(
    entries: list[TokenLogprobs], wanted: int, tokenizer: Tokenizer | None
) -> list[dict[int, Logprob] | None]:
    """One entry per prompt token; None for the first, which nothing precedes."""
    return [None, *(read_position(entry, wanted, tokenizer) for entry in entries)]
