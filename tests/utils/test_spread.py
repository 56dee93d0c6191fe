"""Spreads of durations: what is read back is close to what was noted, and they can be added."""

import random

import pytest

from kvasir.utils.spread import Spread, add_spreads, note, quantile


def test_quantiles_are_within_two_percent():
    rng = random.Random(3)
    seconds = sorted(rng.lognormvariate(-8, 2) for _ in range(999))
    spread: Spread = {}
    for one in seconds:
        note(spread, one)
    assert sum(spread.values()) == len(seconds)
    for share in (0.1, 0.5, 0.9, 1.0):
        exact = seconds[min(round(share * len(seconds)), len(seconds)) - 1]
        assert quantile(spread, share) == pytest.approx(exact, rel=0.03)


def test_memory_is_bounded_whatever_comes():
    spread: Spread = {}
    for exponent in range(-400, 160):
        note(spread, 10 ** (exponent / 40))  # up to some hours
    for nothing in (0.0, -1.0):
        note(spread, nothing)
    assert len(spread) < 700 and quantile({}, 0.5) == 0.0
    assert quantile({0: 5}, 0.5) == 0.0


def test_spreads_add_up():
    one: dict[str, Spread] = {"a": {}}
    other: dict[str, Spread] = {"a": {}, "b": {}}
    note(one["a"], 0.001)
    for seconds in (0.001, 0.004):
        note(other["a"], seconds)
    note(other["b"], 1.0)
    add_spreads(one, other)
    assert sum(one["a"].values()) == 3 and quantile(one["a"], 0.5) == pytest.approx(0.001, rel=0.03)
    assert quantile(one["a"], 1.0) == pytest.approx(0.004, rel=0.03) and one["b"] == other["b"]
