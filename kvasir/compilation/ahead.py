"""Kernels compiled by other processes while this one opens the device, builds the model and reads the weights.

A step is run for the sake of its launches only: each is noted as a compilation to be done, and nothing reaches the
card. What is noted goes to a process of ours (`compiler_process.py`) at once, and comes back through the caches
on disk, where the first real launch finds it. Threads would not do: half of a compilation is Python.
"""

import contextlib
import fcntl
import functools
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec

import msgspec
import torch

from kvasir.compilation import compiler_process
from kvasir.compilation.compiler_process import Job
from kvasir.compilation.noting import KernelNotes
from kvasir.logger import get_logger

logger = get_logger(__name__)
PATIENCE_S = 60.0
NO_WAIT_S = 0.03
"""More than the process takes to find that the caches have everything."""


class CompileAhead:
    """`start()`, then `queue(steps)`, and `wait()` before the first real launch. `stop()` if the start fails."""

    def __init__(self, device: torch.device):
        # Elsewhere no kernel of ours is used.
        self._compiles = device.type == "cuda" and find_spec("triton") is not None
        self._process = 0
        self._jobs = self._answers = -1  # pipes to and from it
        self._notes = KernelNotes(lambda job: self._send(job))
        self._count = 0

    def start(self) -> None:
        """Forks the process that compiles, best while this one is small."""
        if not self._compiles:
            return
        jobs, self._jobs = os.pipe()
        with contextlib.suppress(OSError):  # room for all jobs: it reads none before it knows Triton's key
            fcntl.fcntl(self._jobs, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._answers, answers = os.pipe()
        with warnings.catch_warnings():
            # Threads of libraries do not exist in the child, which uses none of them: no CUDA, no products.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = os.fork()
        if not self._process:
            try:
                compiler_process.run(jobs, answers)
            finally:
                os._exit(0)
        os.close(jobs)
        os.close(answers)

    def queue(self, steps: Callable[[], None]) -> None:
        """Runs `steps` with launches that note a compilation and do nothing else; not at all if none would."""
        if self._compiles:
            with self._notes.instead_of_launching():
                steps()

    def _send(self, job: Job) -> None:
        self._count += 1
        if self._jobs >= 0:
            with contextlib.suppress(BrokenPipeError):
                _write(self._jobs, msgspec.json.encode(job) + b"\n")

    def wait(self, meanwhile: Callable[[], None] | None = None) -> int:
        """Until all is compiled; returns how many kernels were noted. What hangs is stopped.

        Args:
            meanwhile: steps that are worth running, as by `queue`, if there is a time to wait.
        """
        deadline = time.monotonic() + PATIENCE_S
        self._close_jobs()
        self._take_triton_key()
        if not self._ends_before(time.monotonic() + NO_WAIT_S) and meanwhile is not None:
            self.queue(meanwhile)
        if not self._ends_before(deadline):
            logger.warning("a compilation took longer than %.0f s; its kernels are compiled when needed", PATIENCE_S)
        self.stop()
        return self._count

    def _ends_before(self, deadline: float) -> bool:
        while self._process:
            if _has_ended(self._process):
                self._process = 0
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(0.002)
        return True

    def stop(self) -> None:
        """Ends what is still running."""
        self._close_jobs()
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        if self._process:
            for kill in (os.killpg, os.kill):  # it leads a group soon after it was forked, not at once
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    kill(self._process, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._process, 0)
            self._process = 0

    def _close_jobs(self) -> None:
        if self._jobs >= 0:
            os.close(self._jobs)
            self._jobs = -1

    def _take_triton_key(self) -> None:
        """Spares this process the hashing of all of Triton, which its first launch would do."""
        if self._answers < 0:
            return
        key = b""
        while select.select([self._answers], [], [], PATIENCE_S)[0] and (part := os.read(self._answers, 1 << 16)):
            key += part
        if key.endswith(b"\n"):  # else it died over it
            from triton.runtime import cache

            cache.triton_key = functools.cache(key[:-1].decode)


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:  # somebody else collected it
        return True
