"""Random walks through a grammar: what it lets through, without any model. Tokens are bytes and special tokens."""

import random
from functools import cache

from kvasir.structured.formats import Format
from kvasir.structured.guidance import GuidanceBackend
from kvasir.structured.vocabulary import Vocabulary

EOS = 256
FIRST_SPECIAL = 257
_MERGED = (b'"}', b"}}", b'": "', b'": ', b"\n</", b"true", b"  ", b'{"', b">\n", "é".encode(), "🙂".encode(), b'","')
"""Some tokens that reach over the borders of a grammar's parts."""


@cache
def backend(*specials: str) -> GuidanceBackend:
    tokens = [bytes([i]) for i in range(256)] + [b"<eos>", *(s.encode() for s in specials), *_MERGED]
    ids = {text: FIRST_SPECIAL + i for i, text in enumerate(specials)}
    vocabulary = Vocabulary(tokens, [EOS, *ids.values()], ids, [EOS], lambda text: list(text.encode()))
    return GuidanceBackend(vocabulary)


def tokens_of(text: str, *specials: str) -> list[int]:
    """Bytes, and the special tokens where their text stands."""
    ids: list[int] = []
    while text:
        found = [(text.find(s), i) for i, s in enumerate(specials) if s in text]
        at, which = min(found, default=(len(text), -1))
        ids += text[:at].encode()
        if which >= 0:
            ids.append(FIRST_SPECIAL + which)
            at += len(specials[which])
        text = text[at:]
    return ids


def accepts(fmt: Format, text: str, *specials: str) -> bool:
    """Whether a text, and then its end, is allowed."""
    library = backend(*specials)
    automaton = library.compile(fmt).start()
    return all(_step(library, automaton, token) for token in [*tokens_of(text, *specials), EOS])


def _step(library: GuidanceBackend, automaton: object, token: int) -> bool:
    if token not in _allowed(library, automaton):
        return False
    automaton.advance([token])  # type: ignore[attr-defined]
    return True


def _allowed(library: GuidanceBackend, automaton: object) -> list[int]:
    words, (error,) = library.fill([automaton])
    assert error is None
    return [i for i in range(len(words) * 8) if words[i >> 3] >> (i & 7) & 1]


def walk(fmt: Format, seed: int, *specials: str, max_tokens: int = 3000) -> str:
    """A random text of the grammar, to its end. Ends and closing signs are liked, so that it comes to one."""
    library = backend(*specials)
    automaton = library.compile(fmt).start()
    dice = random.Random(seed)
    text = b""
    for _ in range(max_tokens):
        allowed = _allowed(library, automaton)
        closing = [i for i in allowed if i == EOS or (i < 256 and chr(i) in '"]}<')]
        token = dice.choice(closing if closing and dice.random() < 0.25 else allowed)
        if token == EOS:
            return text.decode()
        text += library._vocabulary.tokens[token]
        automaton.advance([token])
    raise AssertionError(f"no end after {max_tokens} tokens: {text[:300]!r}")
