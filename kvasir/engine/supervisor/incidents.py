"""One small JSON file for each death of a core: what happened, and to whom. Ids and numbers, never a prompt."""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kvasir import __version__
from kvasir.engine.supervisor.death import Death
from kvasir.logger import get_logger

logger = get_logger(__name__)

MAX_FILES = 32
MAX_IDS = 64
MAX_ID_CHARS = 128
_PREFIX = "incident-"


@dataclass(frozen=True)
class Incident:
    """What a file tells.

    Attributes:
        in_flight: requests of the steps that had not finished -> tokens they would have had after them.
        num_live: requests that were unfinished; they go on, except `refused`.
        facts: of the engine (model, device, ...), the same in every file of a server.
    """

    death: Death
    core_pid: int
    epoch: int
    uptime_s: float
    in_flight: Mapping[str, int]
    num_live: int
    num_suspects: int
    refused: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self, now: float) -> str:
        death = self.death
        shown = {i[:MAX_ID_CHARS]: n for i, n in list(self.in_flight.items())[:MAX_IDS]}
        what = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
            "summary": str(death),
            "cause": death.cause.value,
            "exit_code": death.exit_code,
            "signal": death.signal_name,
            "phase": death.phase.name.lower(),
            "step_id": death.step_id,
            "silent_s": death.silent_s,
            "core_pid": self.core_pid,
            "epoch": self.epoch,
            "uptime_s": round(self.uptime_s, 3),
            "requests_unfinished": self.num_live,
            "requests_in_flight": len(self.in_flight),
            "tokens_by_request_in_flight": shown,
            "suspects": self.num_suspects,
            "refused": [i[:MAX_ID_CHARS] for i in self.refused],
            "kvasir_version": __version__,
            **self.facts,
        }
        return json.dumps(what, indent=2) + "\n"


class Incidents:
    """Writes them into `folder` and keeps the newest `MAX_FILES` there. A disk that fails costs a log line."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._count = 0

    def write(self, incident: Incident) -> Path | None:
        """The file's path; None when it could not be written."""
        now = time.time()
        self._count += 1
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
        path = self.folder / f"{_PREFIX}{stamp}-{os.getpid()}-{self._count:04d}.json"
        unfinished = self.folder / f".{_PREFIX}{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_text(incident.to_json(now), encoding="utf-8")
            unfinished.replace(path)
            for old in sorted(self.folder.glob(f"{_PREFIX}*.json"))[:-MAX_FILES]:
                old.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("no incident file could be written to %s: %s", self.folder, error)
            return None
        return path
