"""Shortest deadline first."""

from kvasir.scheduler.queue import FirstComePolicy
from kvasir.scheduler.request import Request

UNSAID_S = 60.0
"""A request without a deadline stands as if it were due so long after it came. It bounds how many may overtake it."""


class DeadlinePolicy(FirstComePolicy):
    """The request that is due first runs first.

    A deadline is a point in time, so those of later arrivals lie later and later: nothing starves.
    """

    def score(self, req: Request) -> float:
        message = req.message
        return message.deadline or message.arrival_time + UNSAID_S
