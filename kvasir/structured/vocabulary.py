"""The tokens of a model as bytes: what a grammar library needs to know of a tokenizer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvasir.errors import ConfigError
from kvasir.tokenizer import Tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """Every id that the model has logits for.

    Attributes:
        tokens: id -> its bytes; empty for ids without a token, which no grammar allows.
        special_ids: tokens that are no text: a grammar allows them only where it names them.
        specials: text -> id of those that a grammar may name.
        eos_ids: tokens that end an answer.
        encode: text -> the ids that the tokenizer itself would write for it, none of them special.
    """

    tokens: list[bytes]
    special_ids: list[int]
    specials: dict[str, int]
    eos_ids: list[int]
    encode: Callable[[str], list[int]]


def read_vocabulary(tokenizer: Tokenizer, vocab_size: int, eos_ids: Sequence[int]) -> Vocabulary:
    """Raises ConfigError when tokens of this tokenizer have no bytes of their own, or nothing ends an answer."""
    pieces = tokenizer.pieces
    if pieces.kind == "opaque":
        raise ConfigError("structured outputs need a tokenizer whose decoder is known, and this model's is not.")
    if not eos_ids:
        raise ConfigError("structured outputs need a model with an end-of-sequence token, and this one names none.")
    known = min(len(tokenizer), vocab_size)
    tokens = [_bytes(pieces[i]) for i in range(known)] + [b""] * (vocab_size - known)
    special_ids = {i for i in (*pieces.special_ids, *tokenizer.all_special_ids, *eos_ids) if i < vocab_size}
    specials = {pieces.added[i]: i for i in pieces.special_ids if i in pieces.added and i < vocab_size}
    return Vocabulary(tokens, sorted(special_ids), specials, list(eos_ids), _encoder(tokenizer, tokens, special_ids))


def _bytes(piece: bytes | str | int | None) -> bytes:
    if isinstance(piece, bytes):
        return piece
    if isinstance(piece, int):
        return bytes((piece,))
    return (piece or "").encode()


def _encoder(tokenizer: Tokenizer, tokens: list[bytes], special_ids: set[int]) -> Callable[[str], list[int]]:
    ids = {token: i for i, token in reversed(list(enumerate(tokens))) if token and i not in special_ids}
    longest = max(map(len, ids), default=0)
    # Other tokenizers write the beginning of a text in another way than its middle, which a grammar's texts are.
    is_own = tokenizer.pieces.kind == "bytes"

    def encode(text: str) -> list[int]:
        own = tokenizer.encode(text, add_special_tokens=False) if is_own else []
        if not own or not special_ids.isdisjoint(own):  # a text may spell a special token and is still a text
            return _greedy(text.encode(), ids, longest)
        return own

    return encode


def _greedy(text: bytes, ids: dict[bytes, int], longest: int) -> list[int]:
    """Longest token first; stops at a byte that no token begins with."""
    found, at = [], 0
    while at < len(text):
        size = next((n for n in range(min(longest, len(text) - at), 0, -1) if text[at : at + n] in ids), 0)
        if not size:
            break
        found.append(ids[text[at : at + size]])
        at += size
    return found
