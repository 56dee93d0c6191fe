"""What the other processes of one server have counted, so that any of them can show the whole."""

from collections.abc import Callable
from typing import Any

from kvasir.engine.core_hold import CoreHold
from kvasir.errors import KvasirError
from kvasir.messages import Control
from kvasir.observability.metrics import Dump, Metrics

REPORT, FIGURES = "report_figures", "figures"


class Peers:
    """The front's side: tells the hub its figures, and asks it for those of the others."""

    def __init__(self, hub: CoreHold, metrics: Metrics):
        self._hub = hub
        self._metrics = metrics

    def report(self) -> None:
        """Called once a second: so much is lost when this process is killed, and so old may others see our figures."""
        self._hub.send(Control(REPORT, {"dump": self._metrics.dump()}))

    async def figures(self) -> list[Dump]:
        """Of the hub and of every other front, those that have ended included; none while the hub does not answer."""
        try:
            return await self._hub.call(FIGURES)
        except KvasirError:
            return []


class SharedFigures:
    """The hub's side. A front that ended stays in the sums, so that no counter ever goes back.

    Args:
        metrics: the hub's own, of the cores.
    """

    def __init__(self, metrics: Metrics):
        self.metrics = metrics
        self._latest: dict[int, Dump] = {}
        self._ended = metrics.empty_copy()

    def calls(self) -> dict[str, Callable[[int, dict[str, Any]], Any]]:
        return {REPORT: self._take, FIGURES: self._others}

    def _take(self, index: int, args: dict[str, Any]) -> None:
        dump: Dump = args["dump"]
        before = self._latest.get(index)
        for name in ("prompt_tokens", "generation_tokens"):
            gained = dump[0]["counters"][name] - (before[0]["counters"][name] if before else 0.0)
            setattr(self.metrics.line, name, getattr(self.metrics.line, name) + gained)
        self._latest[index] = dump

    def _others(self, index: int, args: dict[str, Any]) -> list[Dump]:
        return [self.metrics.dump(), self._ended.dump(), *(d for i, d in self._latest.items() if i != index)]

    def forget(self, index: int) -> None:
        """The front has ended; the next one of that number begins at nothing."""
        dump = self._latest.pop(index, None)
        if dump is not None:
            for part in dump:
                part["gauges"] = dict.fromkeys(part["gauges"], 0.0)
            self._ended.add(dump)
