"""Samples -> the figures that are printed."""

import math
from collections.abc import Sequence
from typing import Any


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Of rising values, with linear interpolation between neighbours."""
    if not ordered:
        return math.nan
    at = (len(ordered) - 1) * percent / 100.0
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def summary(values: Sequence[float], percentiles: Sequence[float] = (50.0, 99.0), scale: float = 1.0) -> dict[str, Any]:
    """`mean`, `p50`, `p99` ...; None where there are no samples."""
    ordered = sorted(v * scale for v in values)
    mean = math.fsum(ordered) / len(ordered) if ordered else None
    found: dict[str, Any] = {"mean": mean}
    for p in percentiles:
        found[f"p{p:g}"] = percentile(ordered, p) if ordered else None
    return found


def rounded(value: Any, digits: int = 4) -> Any:
    """For JSON: floats with a sensible number of digits, recursively."""
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v, digits) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v, digits) for v in value]
    return value
