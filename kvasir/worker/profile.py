"""A trace of some steps by torch's profiler, started and ended by a call, written as a file that Perfetto shows."""

import contextlib
import socket
import time
from pathlib import Path
from typing import Any

import torch

from kvasir.errors import ConfigError, EngineError, UserError
from kvasir.logger import get_logger

logger = get_logger(__name__)
DEFAULT_STEPS = 100
MAX_STEPS = 1000
"""A trace holds some hundred events a step in memory; one that nobody ends is ended here."""
_NOTHING = contextlib.nullcontext()


class StepProfiler:
    """At most one trace at a time, of at most MAX_STEPS steps. All calls come from the thread that runs the steps.

    Args:
        folder: where traces go; None: profiling was not allowed at the start.
    """

    def __init__(self, folder: Path | None, device_type: str):
        self._folder = folder
        self._on_card = device_type == "cuda"
        self._running: Any = None
        self._steps_left = 0
        self._written: Path | Exception | None = None  # what became of the last one, until somebody asks

    def start(self, num_steps: int | None = None) -> None:
        """Raises UserError: a trace is running, or `num_steps` is out of bounds. ConfigError: not allowed."""
        if self._folder is None:
            raise ConfigError("profiling is off; start the engine with --profile DIR.")
        if self._running is not None:
            raise UserError("a profile is running already; stop it first.")
        num_steps = DEFAULT_STEPS if num_steps is None else num_steps
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or not 1 <= num_steps <= MAX_STEPS:
            raise UserError(f"num_steps is {num_steps!r}: it must be between 1 and {MAX_STEPS}.", param="num_steps")
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_card else [])]
        self._written, self._steps_left = None, num_steps
        self._running = profile(activities=activities)
        self._running.__enter__()

    def stop(self) -> str:
        """Ends the trace, if its steps have not ended it; returns the file.

        Raises:
            UserError: none was started. EngineError: it could not be written.
        """
        if self._running is None and self._written is None:
            raise UserError("no profile is running; start one first.")
        if self._running is not None:
            self._write()
        written, self._written = self._written, None
        if isinstance(written, Exception):
            raise EngineError(f"the profile could not be written: {written}")
        return str(written)

    def span(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """A named range of the trace; nothing while none is taken."""
        return _NOTHING if self._running is None else torch.profiler.record_function(name)

    def step(self) -> None:
        """A step has been launched."""
        if self._running is not None:
            self._steps_left -= 1
            if self._steps_left <= 0:
                self._write()

    def close(self) -> None:
        if self._running is not None:
            self._write()

    def _write(self) -> None:
        """Steps wait for it. Whatever goes wrong here is no step's fault."""
        running, self._running = self._running, None
        assert self._folder is not None
        now = time.time()
        stamp = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{int(now * 1e6) % 1_000_000:06d}"
        path = self._folder / f"kvasir-{socket.gethostname()}-{stamp}.trace.json.gz"
        try:
            running.__exit__(None, None, None)
            self._folder.mkdir(parents=True, exist_ok=True)
            running.export_chrome_trace(str(path))
        except Exception as error:
            logger.warning("the profile could not be written to %s: %s", path, error)
            self._written = error
            return
        logger.info("profile written to %s in %.1f s", path, time.time() - now)
        self._written = path
