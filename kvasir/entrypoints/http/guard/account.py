"""The account of one key: its buckets, its counters, its requests in flight."""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec

from kvasir.entrypoints.http.errors import QuotaError, RateLimitError
from kvasir.entrypoints.http.guard.keys import ApiKey
from kvasir.entrypoints.http.guard.limits import Bucket


class Counts(msgspec.Struct):
    """What was used. `refused` are requests turned away by a limit of the key."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    refused: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def add(self, other: "Counts") -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


def day_of(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d")


class Account:
    """Asked before a request (`begin`), told what it uses (`charge`), told of its end (`end`).

    Attributes:
        today, month: since midnight and since the first of the month, UTC.
        unsaved: by day, what the store does not know yet.
    """

    def __init__(self, key: ApiKey, clock: Callable[[], float] = time.time):
        self.key = key
        self.num_running = 0
        self.today, self.month = Counts(), Counts()
        self.unsaved: dict[str, Counts] = {}
        self.requests = Bucket(key.requests_per_minute, clock)
        self.tokens = Bucket(key.tokens_per_minute, clock)
        self._clock = clock
        self._day = day_of(clock())

    def set_key(self, key: ApiKey) -> None:
        """Limits may change while requests run."""
        self.key = key
        self.requests.set_limit(key.requests_per_minute)
        self.tokens.set_limit(key.tokens_per_minute)

    def begin(self) -> None:
        """Counts a request in.

        Raises:
            RateLimitError, QuotaError: it may not run now; the text says which limit and when.
        """
        try:
            self.admit()
        except (RateLimitError, QuotaError):
            self._count(Counts(refused=1))
            raise
        self.num_running += 1

    def admit(self) -> None:
        """The same for a request that nobody waits for, such as a line of a batch: it takes no place among those that
        run, and to be refused is no event, since it asks again.
        """
        self._turn_day()
        self._check()
        self.requests.take(1)
        self._count(Counts(requests=1))

    def _check(self) -> None:
        key = self.key
        if key.max_concurrent is not None and self.num_running >= key.max_concurrent:
            raise RateLimitError(
                f"{self.num_running} requests of the key {key.name!r} are running and it may have {key.max_concurrent} "
                "at a time (max_concurrent).",
                retry_after_s=1.0,
            )
        for bucket, name, least in ((self.requests, "requests", 1.0), (self.tokens, "tokens", 1.0)):
            wait_s = bucket.wait_s(least)
            if wait_s:
                raise RateLimitError(
                    f"the key {key.name!r} may use {bucket.per_minute} {name} a minute ({name}_per_minute) and has "
                    f"used them; try again in {math.ceil(wait_s)} s.",
                    retry_after_s=math.ceil(wait_s),
                )
        for quota, used, name, end in (
            (key.tokens_per_day, self.today.tokens, "day", _next_day),
            (key.tokens_per_month, self.month.tokens, "month", _next_month),
        ):
            if quota is not None and used >= quota:
                raise QuotaError(
                    f"the key {key.name!r} may use {quota} tokens a {name} (tokens_per_{name}) and has used {used}.",
                    retry_after_s=end(self._clock()),
                )

    def charge(self, counts: Counts) -> None:
        self._turn_day()
        self.tokens.take(counts.tokens)
        self._count(counts)

    def end(self) -> None:
        self.num_running -= 1

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What OpenAI's clients read to slow down by themselves."""
        found = []
        for bucket, name in ((self.requests, "requests"), (self.tokens, "tokens")):
            if bucket.per_minute is not None:
                left = max(int(bucket.level), 0)
                reset_s = bucket.wait_s(float(bucket.per_minute))
                found += [
                    (f"x-ratelimit-limit-{name}".encode(), str(bucket.per_minute).encode()),
                    (f"x-ratelimit-remaining-{name}".encode(), str(left).encode()),
                    (f"x-ratelimit-reset-{name}".encode(), f"{reset_s:.0f}s".encode()),
                ]
        return found

    def report(self) -> dict[str, object]:
        self._turn_day()
        limits = (
            "requests_per_minute",
            "tokens_per_minute",
            "tokens_per_day",
            "tokens_per_month",
            "max_concurrent",
        )
        return {
            "name": self.key.name,
            "running": self.num_running,
            "today": self.today,
            "month": self.month,
            "limits": {name: getattr(self.key, name) for name in limits},
        }

    def restore(self, today: Counts, month: Counts) -> None:
        self.today, self.month = today, month

    def take_unsaved(self) -> dict[str, Counts]:
        unsaved, self.unsaved = self.unsaved, {}
        return unsaved

    def give_back(self, unsaved: dict[str, Counts]) -> None:
        """They could not be written."""
        for day, counts in unsaved.items():
            self.unsaved.setdefault(day, Counts()).add(counts)

    def _count(self, counts: Counts) -> None:
        self.today.add(counts)
        self.month.add(counts)
        self.unsaved.setdefault(self._day, Counts()).add(counts)

    def _turn_day(self) -> None:
        day = day_of(self._clock())
        if day != self._day:
            if day[:7] != self._day[:7]:
                self.month = Counts()
            self.today, self._day = Counts(), day


def _next_day(now: float) -> float:
    at = datetime.fromtimestamp(now, UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return math.ceil((midnight - at).total_seconds())


def _next_month(now: float) -> float:
    at = datetime.fromtimestamp(now, UTC)
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    following = (first + timedelta(days=32)).replace(day=1)
    return math.ceil((following - at).total_seconds())
