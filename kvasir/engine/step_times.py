"""Where the host's time in a step goes."""

import time

from kvasir.messages import ModelRunnerOutput, SchedulerOutput, StepPhases
from kvasir.utils.spread import Spread, note

PHASES = ("between", "schedule", "execute", "sample", "wait", "read", "update")
"""between: from the end of one step to the next, while there is work (messages are taken and sent then; offline, the
front reads what the step said). schedule: planning. execute: handing the forward pass over; on a worker without its own
thread, laying it out and launching it. sample: the same for sampling, masks of grammars included. wait: for the device.
read: the worker makes the result from what the device sampled. update: taking it in.
"""

_LONGEST_PAUSE_S = 1.0
"""A longer time between two steps was idleness, whatever the reason."""


class StepTimes:
    """`begin` opens a turn of the loop, each `mark` ends a phase that began where the last one ended, `end` closes it.

    What is kept: sums of seconds by phase, and, when detailed, the spread of each phase over turns. A turn counts there
    if it launched a step and took a step's result, which is what turns do while work goes on: as one of decode rows,
    or, if a prompt was part of either step, as one with prompts.

    Args:
        detailed: all phases are told apart; else only `schedule` and `update` are true, for half the calls.
    """

    def __init__(self, detailed: bool = False):
        self.detailed = detailed
        self._reset()

    def _reset(self) -> None:
        self._last = 0.0
        self._sums = _zeros()
        self._open()

    def _open(self) -> None:
        self._turn = dict.fromkeys(PHASES, 0.0)
        self._launched: SchedulerOutput | None = None
        self._landed: tuple[SchedulerOutput, float] | None = None  # and its seconds in the worker

    def switch(self, detailed: bool) -> None:
        if detailed != self.detailed:
            self.detailed = detailed
            self._reset()

    def begin(self, has_work: bool) -> None:
        """A turn begins; `has_work`: there was something to do already when the last one ended."""
        if self.detailed:
            self._open()
        now = time.perf_counter()
        if has_work and self._last and now - self._last < _LONGEST_PAUSE_S:
            self._add("between", now - self._last)
        self._last = now

    def mark(self, phase: str) -> None:
        now = time.perf_counter()
        self._add(phase, now - self._last)
        self._last = now

    def detail(self, phase: str) -> None:
        """A mark that may be left out: what it would have measured then counts to the phase after it."""
        if self.detailed:
            self.mark(phase)

    def _add(self, phase: str, seconds: float) -> None:
        self._sums.phase_s[phase] += seconds
        if self.detailed:
            self._turn[phase] += seconds

    def launch(self, plan: SchedulerOutput) -> None:
        """A step is on its way."""
        self._launched = plan

    def land(self, plan: SchedulerOutput, result: ModelRunnerOutput) -> None:
        """Its result is there: what passed since the last mark was waiting, but for the making of the result."""
        now = time.perf_counter()
        passed = now - self._last
        read_s = min(result.read_s, passed)  # a worker on a thread of its own may have made it long before
        self._add("wait", passed - read_s)
        self._add("read", read_s)
        self._last = now
        self._sums.num_steps += 1
        self._sums.worker_s += result.step_s
        self._landed = plan, result.step_s

    def end(self) -> None:
        """The turn is over. What this takes is the measuring's and in no phase."""
        if self.detailed and self._launched is not None and self._landed is not None:
            landed, worker_s = self._landed
            only_decodes = self._launched.only_decodes and landed.only_decodes
            spreads = self._sums.decode if only_decodes else self._sums.prompt
            step_s = sum(self._turn.values())
            times = {"step": step_s, "host": step_s - self._turn["wait"], "worker": worker_s, **self._turn}
            for name, seconds in times.items():
                note(spreads.setdefault(name, {}), seconds)
            self._last = time.perf_counter()

    def take(self) -> StepPhases:
        """What came together since the last call."""
        found, self._sums = self._sums, _zeros()
        return found


def _zeros() -> StepPhases:
    decode: dict[str, Spread] = {}
    prompt: dict[str, Spread] = {}
    return StepPhases(0, 0.0, dict.fromkeys(PHASES, 0.0), decode, prompt)
