"""Token ids to text, a few at a time. What was returned is never taken back.

Concatenating every `push` and the `finish` gives exactly what the tokenizer's `decode` gives for all ids at once.
"""

import codecs
from collections.abc import Callable, Sequence
from typing import Protocol

from kvasir.tokenizer.pieces import Kind, Pieces

_PRIME_TOKENS = 8  # enough for the three bytes that an unfinished letter can have
REPLACEMENT = "\ufffd"


class HasPieces(Protocol):
    @property
    def pieces(self) -> Pieces: ...


class _Stream(Protocol):
    def push(self, token_ids: Sequence[int], /) -> str: ...
    def finish(self) -> str: ...


class IncrementalDetokenizer:
    """The text of one stream of tokens.

    Args:
        tokenizer: anything with `pieces`.
        skip_special_tokens: special tokens add no text.
        spaces_between_special_tokens: False removes the blank that some tokenizers put between added tokens.
        prompt_token_ids: what came before. The text then continues the prompt's: it keeps the blank before its
            first word, and ends a letter that the prompt began.
    """

    __slots__ = ("_cleaner", "_push", "_stream")

    def __init__(
        self,
        tokenizer: HasPieces,
        *,
        skip_special_tokens: bool = True,
        spaces_between_special_tokens: bool = True,
        prompt_token_ids: Sequence[int] = (),
    ):
        pieces = tokenizer.pieces
        hidden = pieces.special_ids if skip_special_tokens else frozenset()
        self._stream: _Stream = _STREAMS[pieces.kind](
            pieces, hidden, spaces_between_special_tokens or skip_special_tokens, prompt_token_ids
        )
        self._cleaner = _Cleaner() if pieces.cleans_up else None
        self._push = self._stream.push

    def push(self, token_ids: Sequence[int]) -> str:
        """New text that these tokens settle (may be empty: half a letter is not text)."""
        text = self._push(token_ids)
        return text if self._cleaner is None else self._cleaner.push(text)

    def finish(self) -> str:
        """The rest: an unfinished letter becomes U+FFFD, as in a whole decode."""
        text = self._stream.finish()
        return text if self._cleaner is None else self._cleaner.push(text) + self._cleaner.finish()


class _ByteStream:
    """Byte-level vocabularies: tokens are bytes, a letter not yet whole is the only state."""

    __slots__ = ("_hidden", "_pieces", "_tail", "_whole")

    def __init__(self, pieces: Pieces, hidden: frozenset[int], spaces: bool, prompt: Sequence[int]):
        self._pieces = pieces
        self._whole = pieces.whole
        self._hidden = hidden
        self._tail = b""
        shown = [i for i in prompt[-4 * _PRIME_TOKENS :] if i not in hidden]
        self._decode(b"".join([pieces[i] for i in shown[-_PRIME_TOKENS:]]))

    def push(self, token_ids: Sequence[int]) -> str:
        pieces, hidden = self._pieces, self._hidden
        if len(token_ids) != 1:
            return self._decode(b"".join([pieces[i] for i in token_ids if i not in hidden]))
        token_id = token_ids[0]
        if token_id in hidden:
            return ""
        if not self._tail:
            text = self._whole.get(token_id)
            if text is not None:
                return text
        was_whole = not self._tail
        text = self._decode(pieces[token_id])
        if was_whole and not self._tail:  # the token needs no neighbour: its text is the same next time
            self._whole[token_id] = text
        return text

    def finish(self) -> str:
        text, self._tail = self._tail.decode("utf-8", "replace"), b""
        return text

    def _decode(self, data: bytes) -> str:
        data = self._tail + data
        text, used = codecs.utf_8_decode(data, "replace", False)
        self._tail = data[used:]
        return text


class _TextStream:
    """Vocabularies of words: SentencePiece with or without byte fallback, WordPiece, plain words."""

    __slots__ = ("_after_added", "_hidden", "_pieces", "_run", "_spaces", "_started")

    def __init__(self, pieces: Pieces, hidden: frozenset[int], spaces: bool, prompt: Sequence[int]):
        self._pieces = pieces
        self._hidden = hidden
        self._spaces = spaces
        self._after_added = False
        shown = [i for i in prompt if i not in hidden] if len(prompt) <= 64 else list(prompt[-64:])
        self._started = bool(shown) or pieces.first == "none"
        self._run = _unfinished_letter(pieces, shown)

    def push(self, token_ids: Sequence[int]) -> str:
        text = ""
        for token_id in token_ids:
            if token_id not in self._hidden:
                text += self._one(token_id)
        return text

    def finish(self) -> str:
        return self._begin(self._flush())

    def _one(self, token_id: int) -> str:
        piece = self._pieces[token_id]
        if piece is None:
            return ""
        if type(piece) is int:
            # A run of byte tokens is text only as a whole: one bad byte turns all of it into U+FFFD.
            self._run.append(piece)
            return ""
        if not self._started and self._pieces.first_piece is not None:
            piece = self._pieces.first_piece(token_id)
            self._started = True
        if not self._spaces:
            added = self._pieces.added.get(token_id)
            if added is not None and self._after_added:
                piece = added
            self._after_added = added is not None
        if self._run:
            piece = self._flush() + piece
        return piece if self._started else self._begin(piece)

    def _flush(self) -> str:
        if not self._run:
            return ""
        run, self._run = bytes(self._run), []
        try:
            return run.decode()
        except UnicodeDecodeError:
            return REPLACEMENT * len(run)

    def _begin(self, text: str) -> str:
        if self._started or not text:
            return text
        self._started = True
        return text[1:] if self._pieces.first == "strip" and text.startswith(" ") else text


def _unfinished_letter(pieces: Pieces, shown: Sequence[int]) -> list[int]:
    run: list[int] = []
    for token_id in reversed(shown[-4:]):
        piece = pieces[token_id]
        if type(piece) is not int:
            break
        run.insert(0, piece)
    _, used = codecs.utf_8_decode(bytes(run), "replace", False)
    return run[used:]


class _WindowStream:
    """Decoders whose rule is not known: decode a window that starts at the last settled text, and compare."""

    __slots__ = ("_decode", "_fresh", "_hidden", "_old")

    def __init__(self, pieces: Pieces, hidden: frozenset[int], spaces: bool, prompt: Sequence[int]):
        if pieces.decode is None:
            raise TypeError("pieces of kind 'opaque' need a decode function")
        self._decode = pieces.decode
        self._hidden = bool(hidden)
        self._old = list(prompt[-_PRIME_TOKENS:])
        self._fresh: list[int] = []

    def push(self, token_ids: Sequence[int]) -> str:
        text = ""
        for token_id in token_ids:
            self._fresh.append(token_id)
            new = self._new_text()
            # Half a letter shows as U+FFFD; a real one does not change after a few more tokens.
            if new and (not new.endswith(REPLACEMENT) or len(self._fresh) > _PRIME_TOKENS):
                text += new
                self._old, self._fresh = (self._old + self._fresh)[-_PRIME_TOKENS:], []
        return text

    def finish(self) -> str:
        text = self._new_text()
        self._fresh = []
        return text

    def _new_text(self) -> str:
        if not self._fresh:
            return ""
        before = self._decode(self._old, self._hidden)
        both = self._decode(self._old + self._fresh, self._hidden)
        return both[len(before) :]


_STREAMS: dict[Kind, Callable[[Pieces, frozenset[int], bool, Sequence[int]], _Stream]] = {
    "bytes": _ByteStream,
    "text": _TextStream,
    "opaque": _WindowStream,
}


class _Cleaner:
    """Removes blanks before punctuation as the whole decode does, over text that comes in pieces.

    Text is settled up to a blank whose neighbour on the left can be part of no pattern: every pattern starts with
    a blank, and only an apostrophe or an `n` can stand before a blank inside one.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = ""

    def push(self, text: str) -> str:
        self._tail += text
        cut = self._tail.rfind(" ")
        while cut > 0 and self._tail[cut - 1] in " 'n":
            cut = self._tail.rfind(" ", 0, cut)
        if cut <= 0:
            return ""
        settled, self._tail = self._tail[:cut], self._tail[cut:]
        return clean_up(settled)

    def finish(self) -> str:
        text, self._tail = self._tail, ""
        return clean_up(text)


def clean_up(text: str) -> str:
    """Blanks before punctuation and English contractions removed, as transformers does after decoding."""
    for old in (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're"):
        text = text.replace(old, old.strip())
    return text


def token_text(tokenizer: HasPieces, token_id: int) -> str:
    """One token as text inside a sentence, its leading blank kept; bytes that are no letter alone become U+FFFD."""
    pieces = tokenizer.pieces
    text = pieces.texts.get(token_id)
    if text is None:
        text = pieces.texts[token_id] = _lone_text(pieces, token_id)
    return text


def _lone_text(pieces: Pieces, token_id: int) -> str:
    if pieces.kind == "opaque" and pieces.decode is not None:
        return pieces.decode([token_id], False)
    piece = pieces[token_id]
    if isinstance(piece, int):
        piece = bytes((piece,))
    return piece.decode("utf-8", "replace") if isinstance(piece, bytes) else piece or ""
