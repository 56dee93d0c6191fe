"""Where the seconds of a start went: phases of several processes, one table that adds up."""

import os
import time
from dataclasses import dataclass, field


def process_age_s() -> float:
    """Seconds since this process was started, by the kernel's clock: what the user waited before our first line."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stat, open("/proc/uptime", encoding="ascii") as uptime:
            started = int(stat.read().rsplit(")", 1)[1].split()[19]) / os.sysconf("SC_CLK_TCK")
            return max(0.0, float(uptime.read().split()[0]) - started)
    except (OSError, ValueError, IndexError):  # no /proc: then the clock starts at the first call
        return 0.0


@dataclass
class StartupReport:
    """Phases of the front, with those of the core inside the phase that waited for it."""

    phases: list[tuple[str, float]] = field(default_factory=list)
    _since: float = field(default_factory=time.perf_counter)

    @classmethod
    def begin(cls) -> "StartupReport":
        """Starts with what passed before: interpreter and imports."""
        return cls([("interpreter and imports", process_age_s())])

    def mark(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases.append((phase, now - self._since))
        self._since = now

    @property
    def total_s(self) -> float:
        return sum(seconds for _, seconds in self.phases)

    def table(self, inside: list[tuple[str, float]] | None = None, under: str = "") -> str:
        """One line a phase; `inside` lists what happened within the phase named `under`."""
        lines = []
        for phase, seconds in self.phases:
            lines.append(f"  {phase:<34s}{seconds:>8.2f} s")
            if phase == under:
                lines.extend(f"    {'of which: ' + name:<32s}{s:>8.2f} s" for name, s in inside or [])
        lines.append(f"  {'from process start to ready':<34s}{self.total_s:>8.2f} s")
        return "\n".join(lines)
