"""What happened to requests between their tokens: placed, thrown out, placed again, and what that cost."""

from collections.abc import Callable

from kvasir.logger import get_logger
from kvasir.messages import EngineCoreOutput, EventKind, RequestEvent
from kvasir.scheduler.request import Request

logger = get_logger(__name__)

MAX_EVENTS = 65_536
"""Kept for fronts that have nothing to hear yet; a bound, not a size that is ever reached."""
LOG_INTERVAL_S = 10.0


class Journal:
    """Notes events for the fronts, counts recomputed tokens, and names victims in the log.

    Attributes:
        num_recomputed: tokens computed a second time since this was set to 0.
    """

    def __init__(self, clock: Callable[[], float]):
        self.num_recomputed = 0
        self._clock = clock
        self._events: dict[int, list[RequestEvent]] = {}
        self._num_events = 0
        self._lost: dict[Request, int] = {}  # computed tokens of preempted requests
        self._logged_at = 0.0
        self._unlogged = (0, 0)  # victims, tokens

    def placed(self, req: Request, num_hit_tokens: int) -> None:
        if not req.was_placed:
            self._note(req, EventKind.SCHEDULED, num_hit_tokens)
            return
        again = max(0, self._lost.pop(req, 0) - num_hit_tokens)
        self.num_recomputed += again
        self._note(req, EventKind.RESUMED, again)

    def preempted(self, req: Request, free_blocks: int) -> None:
        """`req` still says what it had computed."""
        lost = self._lost[req] = min(req.num_computed, len(req.tokens))
        self._note(req, EventKind.PREEMPTED, lost)
        victims, tokens = self._unlogged
        now = self._clock()
        if now - self._logged_at < LOG_INTERVAL_S:
            self._unlogged = (victims + 1, tokens + lost)
            return
        more = f" ({victims} more with {tokens} tokens since the last line)" if victims else ""
        logger.info(
            "request %s gives its place back: %d computed tokens lost, %d KV blocks were free%s",
            req.request_id,
            lost,
            free_blocks,
            more,
        )
        self._logged_at, self._unlogged = now, (0, 0)

    def ended(self, req: Request) -> None:
        self._lost.pop(req, None)

    def attach(self, outputs: dict[int, EngineCoreOutput]) -> None:
        """Events go along with what a front is told anyway."""
        if not self._num_events:
            return
        for client_index, output in outputs.items():
            events = self._events.pop(client_index, None)
            if events is not None:
                output.events = events
                self._num_events -= len(events)

    def _note(self, req: Request, kind: EventKind, tokens: int) -> None:
        if self._num_events < MAX_EVENTS:
            self._num_events += 1
            event = RequestEvent(req.request_id, kind, self._clock(), tokens)
            self._events.setdefault(req.client_index, []).append(event)
