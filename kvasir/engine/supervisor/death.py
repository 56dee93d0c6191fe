"""Death: how a core process ended, told from its exit code and from what it was doing."""

import enum
import signal
from dataclasses import dataclass, field

from kvasir.utils.heartbeat import Phase

EXIT_DEVICE_FAULT = 75
"""Exit code of a core whose device has failed: nothing on it can be trusted, a new process must open it again."""

_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}
"""Signals that people and machines send (the kernel's out-of-memory killer, too); a fault of our own raises others."""


class Cause(enum.StrEnum):
    """Also the `reason` label of the restart counter."""

    KILLED = "killed"  # by a signal from outside
    STOPPED = "stopped"  # silent because somebody stopped it (SIGSTOP); we killed it
    CRASHED = "crashed"  # by a fault signal, or an exception that nobody caught
    DEVICE_FAULT = "device_fault"
    STUCK = "stuck"  # silent beyond the deadline; we killed it
    UNREADABLE = "unreadable"  # the front could not read what it said; we killed it


_FROM_WITHIN = {Cause.CRASHED, Cause.DEVICE_FAULT, Cause.STUCK}


@dataclass(frozen=True)
class Death:
    """What is known of a dead core.

    Attributes:
        exit_code: as subprocess gives it; minus the signal's number, None when the process would not go.
        phase, step_id: of its last beat.
        in_flight: digest of each request in its unfinished steps -> tokens it has once they have run.
        silent_s: seconds without a beat, for a core that was killed for it.
    """

    cause: Cause
    exit_code: int | None
    phase: Phase
    step_id: int
    in_flight: dict[bytes, int] = field(default_factory=dict)
    silent_s: float | None = None

    @property
    def from_within(self) -> bool:
        """Whether what the core was running may have caused it."""
        return self.cause in _FROM_WITHIN

    @property
    def signal_name(self) -> str | None:
        return signal.Signals(-self.exit_code).name if self.exit_code is not None and self.exit_code < 0 else None

    def __str__(self) -> str:
        doing = self.phase.name.lower() + (f" {self.step_id}" if self.step_id >= 0 else "")
        if self.silent_s is not None:
            stopped = " (it was stopped from outside)" if self.cause is Cause.STOPPED else ""
            return f"The engine core made no progress for {self.silent_s:.1f} s in {doing} and was killed{stopped}."
        if self.cause is Cause.UNREADABLE:
            return "What the engine core said could not be read, and it was killed."
        if self.cause is Cause.DEVICE_FAULT:
            return f"The engine core ended in {doing}: its device has failed."
        how = f"was ended by {self.signal_name}" if self.signal_name else f"has ended with exit code {self.exit_code}"
        return f"The engine core {how} in {doing}."


def cause_of(exit_code: int | None) -> Cause:
    """Of a core that we did not kill."""
    if exit_code == EXIT_DEVICE_FAULT:
        return Cause.DEVICE_FAULT
    if exit_code is not None and exit_code < 0 and -exit_code in _FROM_OUTSIDE:
        return Cause.KILLED
    return Cause.CRASHED
