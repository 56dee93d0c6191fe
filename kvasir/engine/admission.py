"""Who may queue: bounds on what waits, decided at the front before any more work is spent on a request."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from kvasir.errors import CapacityError, DeadlineError, QueueFullError

MAX_RETRY_AFTER_S = 60.0
_MEMORY_S = 10.0
"""Over how much time of waiting the speed of the queue is measured."""


class TooLateError(CapacityError):
    """The queue is longer than the request's deadline is away."""


@dataclass(frozen=True)
class AdmissionLimits:
    """Bounds of one front process.

    Attributes:
        max_unfinished: answers that run or wait.
        max_queued_tokens: prompt tokens of requests that have no token out; one request alone may have more.
        max_wait_s: a request that would have to wait longer is refused; 0: no such bound.
    """

    max_unfinished: int
    max_queued_tokens: int
    max_wait_s: float = 0.0


class QueueSpeed:
    """Requests and tokens that leave the queue per second, measured only while somebody waits."""

    def __init__(self) -> None:
        self._requests = self._tokens = self._seconds = 0.0

    def pass_time(self, seconds: float) -> None:
        if seconds > 0.0:
            keep = math.exp(-seconds / _MEMORY_S)
            self._requests, self._tokens = self._requests * keep, self._tokens * keep
            self._seconds = self._seconds * keep + seconds

    def leave(self, num_tokens: int) -> None:
        self._requests += 1
        self._tokens += num_tokens

    def wait_s(self, num_requests: int, num_tokens: int) -> float:
        """Seconds until so many have left; 0.0 while nothing is known."""
        if not self._requests or not num_requests:
            return 0.0
        return self._seconds * max(num_requests / self._requests, num_tokens / max(self._tokens, 1.0))


class Ticket:
    """A request's place: waiting from `Admission.enter` until `start`, gone with `leave`. Both may be called twice."""

    __slots__ = ("_admission", "_num_answers", "_num_tokens", "_state")

    def __init__(self, admission: "Admission", num_answers: int, num_tokens: int):
        self._admission = admission
        self._num_answers, self._num_tokens = num_answers, num_tokens
        self._state = "waits"

    def start(self) -> None:
        """Its first token is out."""
        if self._state == "waits":
            self._state = "runs"
            self._admission._unqueue(self._num_tokens, started=True)

    def leave(self) -> None:
        if self._state == "waits":
            self._admission._unqueue(self._num_tokens, started=False)
        if self._state != "gone":
            self._state = "gone"
            self._admission.num_unfinished -= self._num_answers


class Admission:
    """Counts what is in the engine and refuses what would make the queue too long.

    Attributes:
        num_unfinished: answers in the engine.
        num_waiting, num_waiting_tokens: requests without a first token, and the tokens of their prompts.
        num_refused: since the start.
    """

    def __init__(self, limits: AdmissionLimits, clock: Callable[[], float] = time.monotonic):
        self.limits = limits
        self.num_unfinished = 0
        self.num_waiting = 0
        self.num_waiting_tokens = 0
        self.num_refused = 0
        self._clock = clock
        self._speed = QueueSpeed()
        self._looked = clock()

    def check(self, num_answers: int = 1, num_tokens: int = 0, left_s: float | None = None) -> None:
        """Asked as early as possible, with what is known by then, and again when more is known.

        Args:
            num_tokens: of the prompt; 0 before it has been tokenized.
            left_s: seconds until the request's deadline.

        Raises:
            QueueFullError: too many requests or tokens wait, or they would for too long.
            TooLateError, DeadlineError: it could not be answered in time, or its time is over.
        """
        try:
            self._check(num_answers, num_tokens, left_s)
        except CapacityError as error:
            self.num_refused += 1
            error.retry_after_s = min(max(self.expected_wait_s() / 2, 1.0), MAX_RETRY_AFTER_S)
            raise

    def _check(self, num_answers: int, num_tokens: int, left_s: float | None) -> None:
        limits = self.limits
        if self.num_unfinished + num_answers > limits.max_unfinished:
            raise QueueFullError(
                f"{self.num_unfinished} requests are running or waiting and {num_answers} more would pass the bound "
                f"of {limits.max_unfinished} (--max-num-seqs + --max-queued-requests). Try again later."
            )
        if self.num_waiting and self.num_waiting_tokens + max(num_tokens, 1) > limits.max_queued_tokens:
            raise QueueFullError(
                f"the prompts of waiting requests have {self.num_waiting_tokens} tokens and {num_tokens} more would "
                f"pass the bound of {limits.max_queued_tokens} (--max-queued-tokens). Try again later."
            )
        if left_s is not None and left_s <= 0.0:
            raise DeadlineError("the request's time was up before it could be queued; give it more.")
        wait_s = self.expected_wait_s()
        if limits.max_wait_s and wait_s > limits.max_wait_s:
            raise QueueFullError(
                f"a new request would wait about {wait_s:.0f} s and the bound is {limits.max_wait_s:g} s "
                "(--max-queue-wait). Try again later."
            )
        if left_s is not None and wait_s > left_s:
            raise TooLateError(
                f"a new request would wait about {wait_s:.1f} s and this one has {left_s:.1f} s left. "
                "Give it more time or try again later."
            )

    def enter(self, num_answers: int, num_tokens: int, left_s: float | None = None) -> Ticket:
        """As `check`; the request now counts."""
        self.check(num_answers, num_tokens, left_s)
        self._pass_time()
        self.num_unfinished += num_answers
        self.num_waiting += 1
        self.num_waiting_tokens += num_tokens
        return Ticket(self, num_answers, num_tokens)

    def expected_wait_s(self) -> float:
        """Seconds until those that wait now have their first token, at the pace of the last ones."""
        self._pass_time()
        return self._speed.wait_s(self.num_waiting, self.num_waiting_tokens)

    def _unqueue(self, num_tokens: int, *, started: bool) -> None:
        self._pass_time()
        self.num_waiting -= 1
        self.num_waiting_tokens -= num_tokens
        if started:
            self._speed.leave(num_tokens)

    def _pass_time(self) -> None:
        now = self._clock()
        if self.num_waiting:
            self._speed.pass_time(now - self._looked)
        self._looked = now
