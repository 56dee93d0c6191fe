"""The built-in logits processors, one idea a file, in the order in which they are applied."""

from kvasir.sampling.processor import LogitsProcessor
from kvasir.sampling.processors.allowed_token_ids import AllowedTokenIds
from kvasir.sampling.processors.bad_words import BadWords
from kvasir.sampling.processors.logit_bias import LogitBias
from kvasir.sampling.processors.min_tokens import MinTokens
from kvasir.sampling.processors.penalties import Penalties
from kvasir.sampling.processors.thinking import Thinking
from kvasir.sampling.uploads import Uploads


def built_in_processors(max_num_seqs: int, vocab_size: int, uploads: Uploads) -> list[LogitsProcessor]:
    return [
        AllowedTokenIds(uploads),
        LogitBias(uploads),
        BadWords(max_num_seqs, uploads),
        MinTokens(uploads),
        Penalties(max_num_seqs, vocab_size, uploads),
        Thinking(max_num_seqs, uploads),
    ]


__all__ = ["AllowedTokenIds", "BadWords", "LogitBias", "MinTokens", "Penalties", "Thinking", "built_in_processors"]
