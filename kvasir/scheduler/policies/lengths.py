"""How long answers turn out, learned from those that ended: what a running one may still be expected to add."""

from bisect import bisect_right
from collections import deque

WINDOW = 512
MIN_SAMPLES = 8
PRIOR_TOKENS = 256
"""Before anything has ended: what an answer is thought to add."""
_SORT_EVERY = 16
_FEW = 4


class OutputLengths:
    """Lengths of the latest answers."""

    def __init__(self) -> None:
        self._latest: deque[int] = deque(maxlen=WINDOW)
        self._sorted: list[int] = []
        self._unsorted = 0

    def add(self, num_tokens: int) -> None:
        self._latest.append(num_tokens)
        self._unsorted += 1
        if self._unsorted >= _SORT_EVERY or len(self._latest) <= _SORT_EVERY:
            self._sorted = sorted(self._latest)
            self._unsorted = 0

    def remaining(self, num_tokens: int, luck: float) -> int:
        """Further tokens of an answer that has `num_tokens`: the quantile `luck` (0 to 1) of those that were longer.

        Requests with `luck` spread evenly end as widely spread as answers do. An answer longer than nearly all
        before it says nothing of its end; it is thought to go on for half as long as it has gone.
        """
        if len(self._sorted) < MIN_SAMPLES:
            return max(PRIOR_TOKENS, num_tokens // 2)
        at = bisect_right(self._sorted, num_tokens)
        longer = len(self._sorted) - at
        if longer < _FEW:
            return max(64, num_tokens // 2)
        return self._sorted[at + int(luck * longer)] - num_tokens
