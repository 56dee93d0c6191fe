"""Waiting requests and their order: the `QueuePolicy` seam, first come first served, and priority with ageing."""

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Protocol

from kvasir.errors import EngineError
from kvasir.scheduler.request import Request

AGEING_S = 30.0
"""Under `priority`, one level weighs as much as this many seconds of waiting."""


class QueuePolicy(Protocol):
    """Orders requests; limiters can refuse but not order.

    `push` sets `Request.order_key`, which also orders the running requests: the smallest is placed first,
    the largest is preempted first. A preempted request is pushed again.

    Attributes:
        charges: whether `charge` does anything; the scheduler calls it for every row of every step if so.
    """

    charges: bool

    def push(self, req: Request) -> None: ...

    def order(self, now: float) -> Iterator[Request]:
        """The waiting requests, first to be placed first. Not pushed to or removed from while iterated."""

    def charge(self, req: Request, tokens: int) -> None:
        """`req` got `tokens` in a step."""

    def remove(self, req: Request) -> None:
        """`req` was placed or ended while waiting."""

    def __len__(self) -> int: ...


def order_key(req: Request) -> tuple[float, int]:
    return req.order_key


class FirstComePolicy:
    """By arrival at the front. A preempted request came before everything not yet placed, so it is at the front."""

    charges = False

    def __init__(self) -> None:
        self._items: list[Request] = []
        self._arrivals = 0

    def score(self, req: Request) -> float:
        return req.message.arrival_time

    def push(self, req: Request) -> None:
        if not req.was_placed:
            self._arrivals += 1
            req.order_key = (self.score(req), self._arrivals)  # ties in the order they were added
        insort(self._items, req, key=order_key)

    def order(self, now: float) -> Iterator[Request]:
        return iter(self._items)

    def charge(self, req: Request, tokens: int) -> None:
        pass

    def remove(self, req: Request) -> None:
        at = bisect_left(self._items, req.order_key, key=order_key)
        if at == len(self._items) or self._items[at] is not req:
            raise EngineError(f"request {req.request_id} is not waiting.")
        del self._items[at]

    def __len__(self) -> int:
        return len(self._items)


class PriorityPolicy(FirstComePolicy):
    """Lower priority value first, arrival breaks ties, and waiting counts: nothing starves.

    Every request ages at the same rate, so of two requests the same one stays ahead for ever and the order is a
    fixed number: `priority * AGEING_S + arrival_time`. A request can be overtaken by one that is k levels more
    urgent only if that one arrives within k * AGEING_S seconds after it.
    """

    def score(self, req: Request) -> float:
        return req.message.priority * AGEING_S + req.message.arrival_time
