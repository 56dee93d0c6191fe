"""Which of several cores gets a request: one that may have the prompt's beginning in its cache, unless it is busy."""

from collections import OrderedDict
from collections.abc import Sequence

CHUNK_TOKENS = 64
"""Prefixes are remembered at multiples of this; what two prompts share beyond the last multiple is not seen."""
MAX_CHUNKS = 256
"""Of one prompt; a longer shared beginning sends it to the same core anyway."""
MAX_REMEMBERED = 1 << 16
"""Prefixes over all cores; the longest unused go first."""

_SLACK_REQUESTS = 4
_SLACK = 1.25


class Router:
    """Least loaded, and prefix-affine within bounds.

    A prompt goes to the core that was last given the longest beginning of it, as long as that core's load is not above
    a quarter more than the least one's, and a few requests. So one popular system prompt cannot drown one core: once it
    is that much busier, the next core learns the prefix as well.

    Args:
        num_cores: at least 1.
    """

    def __init__(self, num_cores: int):
        self._num_cores = num_cores
        self._core_of: OrderedDict[int, int] = OrderedDict()  # hash of a prefix -> the core that was last given it
        self._turn = 0

    def choose(self, token_ids: Sequence[int], salt: str | None, loads: Sequence[float], usable: Sequence[int]) -> int:
        """A core's index, one of `usable`.

        Args:
            salt: requests share prefixes only within one salt.
            loads: unfinished answers of each core.
        """
        if self._num_cores == 1:
            return 0
        hashes = _prefix_hashes(token_ids, salt)
        least = min(loads[i] for i in usable)
        bound = least * _SLACK + _SLACK_REQUESTS
        core = None
        for value in reversed(hashes):
            known = self._core_of.get(value)
            if known is not None and known in usable and loads[known] <= bound:
                core = known
                break
        if core is None:
            core = self._next_of([i for i in usable if loads[i] == least])
        self._remember(hashes, core)
        return core

    def forget(self, core: int) -> None:
        """The core's cache is empty: it was restarted, or told to forget."""
        for value in [value for value, known in self._core_of.items() if known == core]:
            del self._core_of[value]

    def _next_of(self, cores: list[int]) -> int:
        """In turn, so that equals share what is too short to have an affinity."""
        self._turn += 1
        return cores[self._turn % len(cores)]

    def _remember(self, hashes: list[int], core: int) -> None:
        for value in hashes:
            self._core_of[value] = core
            self._core_of.move_to_end(value)
        while len(self._core_of) > MAX_REMEMBERED:
            self._core_of.popitem(last=False)


def _prefix_hashes(token_ids: Sequence[int], salt: str | None) -> list[int]:
    """One for each whole chunk: of everything up to its end. A clash sends a request astray, and harms nothing."""
    value, hashes = hash(salt), []
    for start in range(0, min(len(token_ids), MAX_CHUNKS * CHUNK_TOKENS) - CHUNK_TOKENS + 1, CHUNK_TOKENS):
        value = hash((value, *token_ids[start : start + CHUNK_TOKENS]))
        hashes.append(value)
    return hashes
