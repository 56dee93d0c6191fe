"""How often a core may be started again before the server gives up."""

import time
from collections import deque
from collections.abc import Callable

WINDOW_S = 600.0


class RestartBudget:
    """At most `max_restarts` restarts within `WINDOW_S`."""

    def __init__(self, max_restarts: int, clock: Callable[[], float] = time.monotonic):
        self.max_restarts = max_restarts
        self._clock = clock
        self._times: deque[float] = deque()

    def take(self) -> bool:
        """Whether one more restart is within the bound; if so, it is counted."""
        now = self._clock()
        while self._times and now - self._times[0] > WINDOW_S:
            self._times.popleft()
        if len(self._times) >= self.max_restarts:
            return False
        self._times.append(now)
        return True

    def refund(self) -> None:
        """The newest restart is not held against the core after all: its cause was found and removed."""
        if self._times:
            self._times.pop()
