"""How often, and how, a dead engine core is started again."""

import time
from collections import deque
from collections.abc import Callable

from kvasir.engine.client import ProcessClient

WINDOW_S = 600.0


class Restart:
    """Starts cores with rising epochs, at most `max_restarts` of them within `WINDOW_S`.

    The epoch is stamped on all a core says; the front drops what a core of another epoch says, so a late
    word of the dead one can never be taken for one of its successor.

    Args:
        make_client: spawns a core process for an epoch; it is not awaited there.
        timeout_s: a core that is not ready by then is killed.
    """

    def __init__(
        self,
        make_client: Callable[[int], ProcessClient],
        max_restarts: int,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._make_client = make_client
        self._max_restarts = max_restarts
        self._timeout_s = timeout_s
        self._clock = clock
        self._times: deque[float] = deque()
        self._starting: ProcessClient | None = None
        self.epoch = 0

    def allowed(self) -> bool:
        """Whether one more start is within the bound; asking counts as starting."""
        now = self._clock()
        while self._times and now - self._times[0] > WINDOW_S:
            self._times.popleft()
        if len(self._times) >= self._max_restarts:
            return False
        self._times.append(now)
        return True

    def start(self) -> ProcessClient:
        """A core that is ready; blocks until it is.

        Raises:
            ConfigError, EngineDeadError: it could not be started.
        """
        self.epoch += 1
        self._starting = client = self._make_client(self.epoch)
        client.wait_ready(self._timeout_s)
        self._starting = None
        return client

    def stop(self) -> None:
        """Kills a core that is just being started."""
        if self._starting is not None:
            self._starting.kill()
