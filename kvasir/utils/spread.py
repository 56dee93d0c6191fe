"""Durations by how often each occurred, in so few numbers that they can be sent, added up and kept."""

import math
from collections.abc import Mapping

_GROWTH = math.log(1.04)
"""A bucket ends 4 % above where it begins: what is read back is within 2 % of what was measured."""
_LEAST_S = 1e-7
"""Shorter times count as this, so that there are some 600 buckets up to an hour."""

Spread = dict[int, int]
"""bucket -> how often"""


def note(spread: Spread, seconds: float) -> None:
    bucket = int(math.log(seconds / _LEAST_S) / _GROWTH) if seconds > _LEAST_S else 0
    spread[bucket] = spread.get(bucket, 0) + 1


def quantile(spread: Mapping[int, int], share: float) -> float:
    """Seconds that this share of the durations did not exceed; 0.0 when there are none."""
    left = share * sum(spread.values())
    for bucket in sorted(spread):
        left -= spread[bucket]
        if left <= 0:
            return _LEAST_S * math.exp((bucket + 0.5) * _GROWTH) if bucket else 0.0
    return 0.0


def add_spreads(total: dict[str, Spread], more: Mapping[str, Mapping[int, int]]) -> None:
    """By name, bucket by bucket."""
    for name, spread in more.items():
        sums = total.setdefault(name, {})
        for bucket, count in spread.items():
            sums[bucket] = sums.get(bucket, 0) + count
