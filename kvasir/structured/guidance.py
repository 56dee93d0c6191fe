"""llguidance behind the seam: formats -> matchers, matchers -> masks. Nothing here is imported before it is needed."""

import ctypes
import os
import re
from collections.abc import Sequence
from typing import Any

from kvasir.errors import ConfigError
from kvasir.structured.backend import GrammarError
from kvasir.structured.formats import Format, Grammar, mapped
from kvasir.structured.lark import write
from kvasir.structured.vocabulary import Vocabulary

MAX_MASK_THREADS = 8
MAX_ERROR_CHARS = 600
_QUOTED_LINE = re.compile(r"\s*(?:\d+ \| |\^+$)")
_PLACE = re.compile(r"^at \d+\(\d+\): (?:failed to compile JSON schema: )?")
_FEW = 4
"""So many masks are filled one after the other; more are worth the threads."""


class GuidanceAutomaton:
    """See `backend.Automaton`."""

    def __init__(self, matcher: Any, eos_ids: frozenset[int]):
        self.matcher = matcher
        self.num_consumed = 0
        self.ended = False
        self._eos_ids = eos_ids

    def advance(self, token_ids: Sequence[int]) -> None:
        for token_id in token_ids:
            if not self.ended:
                if not self.matcher.consume_token(token_id):
                    raise GrammarError(f"token {token_id} does not fit the grammar: {complaint(self.matcher)}")
                self.ended = token_id in self._eos_ids
            self.num_consumed += 1


class GuidanceGrammar:
    """See `backend.Grammar`."""

    def __init__(self, matcher: Any, eos_ids: frozenset[int]):
        self._matcher = matcher
        self._eos_ids = eos_ids

    def start(self) -> GuidanceAutomaton:
        return GuidanceAutomaton(self._matcher.deep_copy(), self._eos_ids)


class GuidanceBackend:
    """See `backend.Backend`.

    Raises:
        ConfigError: llguidance is not installed.
    """

    def __init__(self, vocabulary: Vocabulary):
        library = import_llguidance()
        self._vocabulary = vocabulary
        self._eos_ids = frozenset(vocabulary.eos_ids)
        self._tokenizer = library.LLTokenizer(
            _TokenizerFace(vocabulary), n_vocab=len(vocabulary.tokens), eos_token=vocabulary.eos_ids
        )
        self._mask_bytes = -(-len(vocabulary.tokens) // 32) * 4
        threads = min(MAX_MASK_THREADS, (os.cpu_count() or 1) // 2)
        self._executor = library.LLExecutor(threads) if threads > 1 else None

    def compile(self, fmt: Format) -> GuidanceGrammar:
        matcher = make_matcher(self._tokenizer, fmt, self._vocabulary.specials)
        return GuidanceGrammar(matcher, self._eos_ids)

    def fill(self, automata: Sequence[Any]) -> tuple[bytearray, list[str | None]]:
        words = bytearray(self._mask_bytes * len(automata))
        address = ctypes.addressof((ctypes.c_char * len(words)).from_buffer(words))
        matchers = [automaton.matcher for automaton in automata]
        if self._executor is not None and len(matchers) > _FEW:
            pairs = [(matcher, i) for i, matcher in enumerate(matchers)]
            self._executor.unsafe_compute_mask_ptr(pairs, address, self._mask_bytes, len(matchers))
        else:
            for i, matcher in enumerate(matchers):
                matcher.unsafe_compute_mask_ptr(address + i * self._mask_bytes, self._mask_bytes)
        return words, [complaint(matcher) if matcher.is_error() else None for matcher in matchers]


def import_llguidance() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise ConfigError(
            f"structured outputs need the package llguidance: pip install llguidance ({error})."
        ) from None
    return llguidance


def make_matcher(tokenizer: Any, fmt: Format, specials: dict[str, int]) -> Any:
    """A matcher at the beginning of the format, with its first mask computed once. Raises GrammarError."""
    library = import_llguidance()
    matcher = library.LLMatcher(
        tokenizer, write(mapped(fmt, _translated), specials), log_level=0, limits=_limits(library)
    )
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarError(complaint(matcher))
    return matcher


def complaint(matcher: Any) -> str:
    """What the library says, without the lines it quotes from a grammar that the caller has never seen."""
    text = matcher.get_error().replace("<non-verbose/>", "").replace("NoExtensionBias", "")
    ours = "%llguidance {}" in text
    lines = [line for line in text.splitlines() if not (ours and _QUOTED_LINE.match(line))]
    text = _PLACE.sub("", "\n".join(lines)) if ours else "\n".join(lines)
    return text.strip()[:MAX_ERROR_CHARS] or "it allows no answer"


def _limits(library: Any) -> Any:
    return library.LLParserLimits(verbose_errors=False)


def _translated(fmt: Format) -> Format:
    """`::=` rules become Lark."""
    if not isinstance(fmt, Grammar) or "::=" not in fmt.grammar:
        return fmt
    from llguidance.gbnf_to_lark import any_to_lark

    try:
        return Grammar(any_to_lark(fmt.grammar))
    except Exception as error:  # the converter raises what it likes, RecursionError among it
        raise GrammarError(f"the grammar's rules cannot be read: {error}"[:MAX_ERROR_CHARS]) from None


class _TokenizerFace:
    """What llguidance asks of a tokenizer object, attribute by attribute."""

    is_tokenizer_wrapper = True

    def __init__(self, vocabulary: Vocabulary):
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special_ids
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id = None
        self._encode = vocabulary.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)
