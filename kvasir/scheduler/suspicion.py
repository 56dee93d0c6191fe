"""Who was in steps that failed: whose fault a failure is shows when each of them runs alone."""

from collections.abc import Iterable

from kvasir.messages import SchedulerOutput
from kvasir.scheduler.request import Request


class Suspicion:
    """Counts failures of requests that have not got past them since.

    A first failure may be anybody's, or nobody's: all start over together. Whoever has only one failure left is on
    trial, in steps without anybody else. There the last failure is its own, and whoever gets past it is cleared.

    Args:
        max_failures: so many end a request.
    """

    def __init__(self, max_failures: int):
        self._max_failures = max_failures
        self._failures: dict[Request, tuple[int, int]] = {}  # number; tokens that it must have computed to be cleared

    def __bool__(self) -> bool:
        return bool(self._failures)

    def on_trial(self) -> Request | None:
        """Who is to run alone now, if anybody is."""
        last = self._max_failures - 1
        return next((req for req, (count, _) in self._failures.items() if count >= last > 0), None)

    def add(self, req: Request, num_tokens: int) -> int:
        """A step failed that was to bring `req` to `num_tokens` computed ones; how many that makes."""
        count, furthest = self._failures.get(req, (0, 0))
        self._failures[req] = count + 1, max(furthest, num_tokens)
        return count + 1

    def clear(self, rows: Iterable[Request], step: SchedulerOutput) -> None:
        """The step has landed: those of its rows that got past where they failed are under suspicion no more."""
        for req, before, n in zip(rows, step.num_computed_tokens, step.num_scheduled_tokens, strict=True):
            if req in self._failures and before + n >= self._failures[req][1]:
                self.forget(req)

    def forget(self, req: Request) -> None:
        self._failures.pop(req, None)
