"""Quarantine: which request ends the core. Events in, decisions out; no clock, no process, no text in here.

After a crash from within, the requests of the step that ran are suspects. The next core gets one group of them and
nothing else: half of them, or one alone when few are left. A suspect that gets past the point where the core died is
cleared and runs on; when a whole group is, the next group joins. A group that crashes is divided again. So a culprit
ends up as the only request a core has ever been sent, and if that core crashes, twice, the request is refused.
Everybody else waits meanwhile, and loses nothing but that time.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

ALONE_AT_MOST = 4
"""Up to so many suspects are tried one by one, since a trial that passes costs no restart; more are halved."""
STRIKES = 2
"""Crashes of a core that had been sent this request and no other."""
FRUITLESS_AT_MOST = 3
"""So many refusals in a row without any request getting ahead, and it is the core that is ill, not its requests."""


@dataclass(frozen=True)
class Ruling:
    """What follows from a death.

    Attributes:
        refused: requests that end with an error.
        counts: whether this restart counts against the bound; a search for a culprit is bounded by itself.
    """

    refused: tuple[str, ...] = ()
    counts: bool = True


class Quarantine:
    """The state of the search. Requests are known by id; `live` maps each unfinished one to its number of tokens."""

    def __init__(self) -> None:
        self._groups: deque[list[str]] = deque()  # the first one is on trial
        self._clear_at: dict[str, int] = {}  # suspect -> number of tokens that clears it when passed
        self._strikes: dict[str, int] = {}
        self._sent: set[str] = set()  # to the present core, while a search is on
        self._only: str | None = None  # the first request that the present core was sent
        self._several = False  # and whether there was another
        self._fruitless = 0

    @property
    def active(self) -> bool:
        """Whether requests are held back."""
        return bool(self._groups)

    @property
    def num_suspects(self) -> int:
        return len(self._clear_at)

    def offer(self, request_id: str) -> bool:
        """Whether the request may go to the present core now; if so, it counts as sent."""
        if self.active:
            if request_id in self._sent or request_id not in self._groups[0]:
                return False
            self._sent.add(request_id)
        if self._only is None:
            self._only = request_id
        elif request_id != self._only:
            self._several = True
        return True

    def note(self, live: Mapping[str, int]) -> list[str]:
        """Takes in how far requests have got; returns those that may go to the core now, as if offered."""
        before = len(self._groups)
        self._clear(live)
        if len(self._groups) == before:
            return []
        released = [i for i in live if i not in self._sent and self.offer(i)]
        if not self.active:
            self._sent.clear()
        return released

    def _clear(self, live: Mapping[str, int]) -> None:
        """Suspects that got ahead, or have ended, are suspects no more; an empty group makes room for the next."""
        if any(live.get(i, 0) > bound for i, bound in self._clear_at.items()):
            self._fruitless = 0
        gone = {i for i, bound in self._clear_at.items() if live.get(i, bound + 1) > bound}
        for request_id in gone:
            self._forget(request_id)
        self._groups = deque(left for group in self._groups if (left := [i for i in group if i not in gone]))

    def on_death(self, from_within: bool, in_flight: Mapping[str, int], live: Mapping[str, int]) -> Ruling:
        """The core is gone; the next one is to be offered every live request.

        Args:
            from_within: whether what it ran may be the cause.
            in_flight: request of an unfinished step -> tokens it would have had after it.
        """
        self._clear(live)
        searching = self.active
        alone = None if self._several else self._only
        self._sent, self._only, self._several = set(), None, False
        if not from_within:
            return Ruling()
        group = list(self._groups.popleft()) if searching else []
        running = [i for i in in_flight if i in live]
        suspects = [i for i in group if i in running] or running or group
        suspects.sort(key=lambda i: live[i])  # stable; whoever has just come is the likeliest
        for request_id in suspects:
            reached = in_flight.get(request_id, live[request_id])
            self._clear_at[request_id] = max(reached, self._clear_at.get(request_id, 0))
        refused = self._strike(suspects[0]) if suspects == [alone] else False
        rest = [i for i in group if i not in suspects]
        groups = [*([] if refused else _divide(suspects)), *([rest] if rest else [])]
        self._groups.extendleft(reversed(groups))
        if not searching:
            self._fruitless = 0
        if refused:
            self._forget(suspects[0])
            self._fruitless += 1
        return Ruling((suspects[0],) if refused else (), not searching or self._fruitless >= FRUITLESS_AT_MOST)

    def _strike(self, request_id: str) -> bool:
        self._strikes[request_id] = self._strikes.get(request_id, 0) + 1
        return self._strikes[request_id] >= STRIKES

    def _forget(self, request_id: str) -> None:
        self._clear_at.pop(request_id, None)
        self._strikes.pop(request_id, None)


def _divide(suspects: list[str]) -> list[list[str]]:
    if len(suspects) <= ALONE_AT_MOST:
        return [[i] for i in suspects]
    half = len(suspects) // 2
    return [suspects[:half], suspects[half:]]
