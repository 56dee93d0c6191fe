"""Where the host's time in a step goes."""

import time

from kvasir.messages import StepPhases

PHASES = ("between", "schedule", "execute", "sample", "wait", "update")
"""between: from the end of one step to the next, while there is work (messages are taken and sent then).
schedule: planning. execute: handing the forward pass over; on a worker without its own thread, launching it.
sample: the same for sampling, masks of grammars included. wait: for the worker's result. update: taking it in.
"""

_LONGEST_PAUSE_S = 1.0
"""A longer time between two steps was idleness, whatever the reason."""


class StepTimes:
    """Sums of seconds by phase; `begin` opens a step, each `mark` ends a phase that began where the last one ended.

    Args:
        detailed: all phases are told apart; else only `schedule` and `update` are true, for half the calls.
    """

    def __init__(self, detailed: bool = False):
        self.detailed = detailed
        self._last = 0.0
        self._sums = _zeros()

    def switch(self, detailed: bool) -> None:
        if detailed != self.detailed:
            self.detailed, self._last, self._sums = detailed, 0.0, _zeros()

    def begin(self, has_work: bool) -> None:
        """A step begins; `has_work`: there was something to do already when the last one ended."""
        now = time.perf_counter()
        if has_work and self._last and now - self._last < _LONGEST_PAUSE_S:
            self._sums.phase_s["between"] += now - self._last
        self._last = now

    def mark(self, phase: str) -> None:
        now = time.perf_counter()
        self._sums.phase_s[phase] += now - self._last
        self._last = now

    def detail(self, phase: str) -> None:
        """A mark that may be left out: what it would have measured then counts to the phase after it."""
        if self.detailed:
            self.mark(phase)

    def count(self, worker_s: float) -> None:
        """A step's result is there."""
        self._sums.num_steps += 1
        self._sums.worker_s += worker_s

    def take(self) -> StepPhases:
        """What came together since the last call."""
        found, self._sums = self._sums, _zeros()
        return found


def _zeros() -> StepPhases:
    return StepPhases(0, 0.0, dict.fromkeys(PHASES, 0.0))
