"""Stat loggers: others' code that is told the engine's figures, found by entry point.

A package names a factory in the group `kvasir.stat_loggers`:

    [project.entry-points."kvasir.stat_loggers"]
    mine = "my_package:make_logger"

`make_logger(model_name)` returns an object with the methods of `StatLogger`. One that raises is not asked again.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

from kvasir.logger import get_logger
from kvasir.messages import SchedulerStats
from kvasir.observability.metrics import FinishedRequestInfo

logger = get_logger(__name__)

GROUP = "kvasir.stat_loggers"


class StatLogger(Protocol):
    """Both run on the server's event loop: they must be quick."""

    def on_scheduler_stats(self, stats: SchedulerStats) -> None:
        """A few times a second while there is work."""

    def on_request_finished(self, info: FinishedRequestInfo) -> None:
        """Once an answer."""


class StatLoggers:
    """Those that are installed; a plugin's fault is the plugin's alone."""

    def __init__(self, model_name: str, points: Iterable[EntryPoint] | None = None):
        self._loggers: dict[str, StatLogger] = {}
        for point in entry_points(group=GROUP) if points is None else points:
            try:
                self._loggers[point.name] = point.load()(model_name)
                logger.info("stat logger %s (%s)", point.name, point.value)
            except Exception:
                logger.exception("the stat logger %s (%s) does not start and is left out", point.name, point.value)

    def __len__(self) -> int:
        return len(self._loggers)

    def on_scheduler_stats(self, stats: SchedulerStats) -> None:
        self._tell(lambda found: found.on_scheduler_stats(stats))

    def on_request_finished(self, info: FinishedRequestInfo) -> None:
        self._tell(lambda found: found.on_request_finished(info))

    def _tell(self, call: Callable[[StatLogger], Any]) -> None:
        for name, found in list(self._loggers.items()):
            try:
                call(found)
            except Exception:
                logger.exception("the stat logger %s failed and is not asked again", name)
                del self._loggers[name]
