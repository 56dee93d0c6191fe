"""Watch: when silence is an alarm. No clock and no process in here."""

from dataclasses import dataclass

from kvasir.utils.heartbeat import Phase

POLL_S = 0.25
"""How often a core is looked at."""


@dataclass(frozen=True)
class Deadlines:
    """Seconds of silence that each phase may have while work is pending."""

    load_s: float
    compile_s: float
    step_s: float
    idle_s: float = 30.0  # an idle core beats every second; this is for a machine that is very busy

    def of(self, phase: Phase) -> float:
        if phase in (Phase.START, Phase.LOAD, Phase.CALL):
            return self.load_s
        if phase in (Phase.COMPILE, Phase.CAPTURE):
            return self.compile_s
        return self.step_s if phase is Phase.STEP else min(self.idle_s, self.step_s)


class Watch:
    """No beat while work is pending, for longer than the phase may take, is the only alarm.

    Time is counted in looks, each worth at most two intervals: a front that was frozen itself (a suspended
    machine, a paused container) must not wake up and kill a core that was frozen along with it.
    """

    def __init__(self, deadlines: Deadlines):
        self._deadlines = deadlines
        self._beats = -1
        self._silent_s = 0.0

    def look(self, beats: int, phase: Phase, *, pending: bool, elapsed_s: float) -> float | None:
        """Seconds of silence if that is an alarm, else None.

        Args:
            pending: whether anybody waits for the core.
            elapsed_s: since the last look.
        """
        if beats != self._beats or not pending:
            self._beats, self._silent_s = beats, 0.0
            return None
        self._silent_s += min(elapsed_s, 2 * POLL_S)
        return self._silent_s if self._silent_s > self._deadlines.of(phase) else None
