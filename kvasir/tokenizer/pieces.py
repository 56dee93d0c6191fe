"""Which bytes or letters each token adds to a text: the rule read from a tokenizer's decoder, once.

For the decoders in use the text of a sequence is the sum of what its tokens add, apart from three
things: letters split over tokens, the blank before the first word, byte-fallback runs. So a stream
needs no repeated decoding: it looks each token up and keeps those three in order. `Pieces` is the
look-up; the state lives in `detokenize.py`.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

Kind = Literal["bytes", "text", "opaque"]
FirstRule = Literal["none", "strip", "bare"]


class Pieces(dict[int, Any]):
    """Token id -> its piece, filled as tokens are met (at most the vocabulary).

    A piece is `bytes` (kind "bytes"), or `str` text, or an `int`: one byte of a fallback run (kind "text").
    An id that is not in the vocabulary adds nothing: b"" or None.

    Attributes:
        kind: "opaque" when the decoder is none of the known ones: pieces cannot be used.
        first: what happens at the start of a text: "strip" one blank, "bare" piece of `first_piece`, or none.
        special_ids: ids that `skip_special_tokens` hides.
        added: id -> text of every added token.
        texts: tokens as text on their own, as far as somebody asked (see `token_text`).
        whole: tokens whose bytes are whole letters, with their text, as far as they were met.
        cleans_up: the tokenizer removes blanks before punctuation afterwards.
    """

    def __init__(
        self,
        kind: Kind,
        first: FirstRule,
        make: Callable[[int], bytes | str | int | None],
        make_first: Callable[[int], str | None] | None = None,
        special_ids: frozenset[int] = frozenset(),
        added: dict[int, str] | None = None,
        cleans_up: bool = False,
        decode: Callable[[list[int], bool], str] | None = None,
    ):
        super().__init__()
        self.kind = kind
        self.first = first
        self.special_ids = special_ids
        self.added = added or {}
        self.cleans_up = cleans_up
        self.decode = decode
        self.first_piece = make_first
        self.texts: dict[int, str] = {}
        self.whole: dict[int, str] = {}
        self._make = make

    def __missing__(self, token_id: int) -> bytes | str | int | None:
        piece = self[token_id] = self._make(token_id)
        return piece


@lru_cache(maxsize=1)
def byte_of_letter() -> dict[str, int]:
    """The byte-level alphabet: printable bytes stand for themselves, the others for letters from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    table = {chr(b): b for b in printable}
    others = (b for b in range(256) if b not in printable)
    table.update({chr(0x100 + i): b for i, b in enumerate(others)})
    return table


def byte_level_piece(token: str | None) -> bytes:
    if token is None:
        return b""
    table = byte_of_letter()
    try:
        return bytes(table[letter] for letter in token)
    except KeyError:  # an added token with letters outside the alphabet stands for itself
        return token.encode()


def fallback_piece(token: str | None, replaces: list[tuple[str, str]], byte_fallback: bool) -> str | int | None:
    if token is None:
        return None
    for old, new in replaces:
        token = token.replace(old, new)
    if byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            pass
    return token


def wordpiece_piece(token: str | None, prefix: str, cleanup: bool, first: bool) -> str | None:
    if token is None:
        return None
    if not first:
        token = token[len(prefix) :] if token.startswith(prefix) else " " + token
    return wordpiece_cleanup(token) if cleanup else token


def wordpiece_cleanup(text: str) -> str:
    for old, new in (
        (" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"),
        (" 'm", "'m"), (" do not", " don't"), (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"),
    ):  # fmt: skip
        text = text.replace(old, new)
    return text


def read_decoder(decoder: str | None, token_of: Callable[[int], str | None], **common: Any) -> Pieces:
    """The rule of a decoder given as its JSON (None: tokens are joined by blanks).

    Args:
        token_of: id -> token string, None outside the vocabulary.
        common: passed on to Pieces (special_ids, added, cleans_up, decode).
    """
    steps = _steps(json.loads(decoder) if decoder else None)
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return Pieces("bytes", "none", lambda i: byte_level_piece(token_of(i)), **common)
    if kinds == []:
        return Pieces("text", "bare", lambda i: _spaced(token_of(i)), token_of, **common)
    if kinds == ["WordPiece"]:
        prefix, cleanup = steps[0]["prefix"], steps[0]["cleanup"]
        return Pieces(
            "text",
            "bare",
            lambda i: wordpiece_piece(token_of(i), prefix, cleanup, first=False),
            lambda i: wordpiece_piece(token_of(i), prefix, cleanup, first=True),
            **common,
        )
    if kinds == ["Metaspace"]:
        mark, keeps = steps[0]["replacement"], steps[0].get("prepend_scheme") == "never"
        return Pieces(
            "text",
            "none" if keeps else "bare",
            lambda i: _replaced(token_of(i), mark, " "),
            lambda i: _replaced(token_of(i), mark, ""),
            **common,
        )
    rule = _fallback_rule(steps)
    if rule is not None:
        replaces, byte_fallback, strips = rule
        return Pieces(
            "text",
            "strip" if strips else "none",
            lambda i: fallback_piece(token_of(i), replaces, byte_fallback),
            **common,
        )
    return Pieces("opaque", "none", lambda i: "", **common)


def _spaced(token: str | None) -> str | None:
    return None if token is None else " " + token


def _replaced(token: str | None, mark: str, by: str) -> str | None:
    return None if token is None else token.replace(mark, by)


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for part in decoder["decoders"] for step in _steps(part)]
    return [decoder]


def _fallback_rule(steps: list[dict[str, Any]]) -> tuple[list[tuple[str, str]], bool, bool] | None:
    """Reads [Replace...] [ByteFallback] [Fuse] [Strip one leading blank], the SentencePiece family; else None."""
    rest = list(steps)
    replaces = []
    while rest and rest[0]["type"] == "Replace":
        pattern = rest.pop(0)
        old = pattern["pattern"].get("String")
        if old is None or len(old) != 1:  # a longer pattern could span two tokens once they are fused
            return None
        replaces.append((old, pattern["content"]))
    byte_fallback = bool(rest) and rest[0]["type"] == "ByteFallback"
    if byte_fallback:
        rest.pop(0)
    fused = bool(rest) and rest[0]["type"] == "Fuse"
    if fused:
        rest.pop(0)
    if not rest:
        return replaces, byte_fallback, False
    strip = rest[0]
    if len(rest) == 1 and fused and strip["type"] == "Strip" and strip["content"] == " ":
        if (strip["start"], strip["stop"]) == (1, 0):
            return replaces, byte_fallback, True
    return None
