"""Rates: a bucket that fills evenly and is emptied by use."""

import time
from collections.abc import Callable


class Bucket:
    """Holds a minute's worth. What a request will cost is known only afterwards, so the level may go below zero: the
    next request then waits until it is paid back.

    Args:
        per_minute: None is no limit.
    """

    __slots__ = ("_at", "_clock", "_level", "per_minute")

    def __init__(self, per_minute: int | None, clock: Callable[[], float] = time.time):
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute or 0)
        self._at = clock()

    @property
    def level(self) -> float:
        if self.per_minute is None:
            return float("inf")
        now = self._clock()
        gained = max(now - self._at, 0.0) * self.per_minute / 60.0
        self._level, self._at = min(self._level + gained, float(self.per_minute)), now
        return self._level

    def take(self, amount: float) -> None:
        if self.per_minute is not None:
            self._level = self.level - amount

    def wait_s(self, amount: float = 1.0) -> float:
        """Seconds until `amount` is there; 0.0 if it is."""
        missing = amount - self.level
        return 0.0 if missing <= 0 or self.per_minute is None else missing * 60.0 / self.per_minute

    def set_limit(self, per_minute: int | None) -> None:
        """What was used stays used."""
        if per_minute != self.per_minute:
            used = (self.per_minute or 0) - self.level if self.per_minute is not None else 0.0
            self.per_minute, self._at = per_minute, self._clock()
            self._level = (per_minute or 0) - used

    def state(self) -> tuple[float, float]:
        """Level and the time it is of, to be kept over a restart."""
        return (0.0, 0.0) if self.per_minute is None else (self.level, self._at)

    def restore(self, level: float, at: float) -> None:
        if self.per_minute is not None:
            self._level, self._at = min(level, float(self.per_minute)), min(at, self._clock())
