"""Kernels compiled by another process while this one builds the model and reads the weights.

Steps are run on paper, by tensors without memory, for the sake of their launches only: each is noted as a compilation
to be done. What is noted goes to a process of ours (`compiler_process.py`) at once, and comes back through the caches
on disk, where the first real launch finds it. Threads would not do: half of a compilation is Python.
"""

import contextlib
import fcntl
import functools
import os
import select
import time
from collections.abc import Callable
from importlib.util import find_spec

import msgspec

from kvasir.compilation import compiler_process
from kvasir.compilation.compiler_process import Job
from kvasir.compilation.noting import KernelNotes
from kvasir.logger import get_logger
from kvasir.ops.target import Target, compile_for
from kvasir.platforms.early_triton import EarlyTriton
from kvasir.utils.child import Child

logger = get_logger(__name__)
PATIENCE_S = 60.0
NO_WAIT_S = 0.03
"""More than the process takes to find that the caches have everything."""
LAUNCHER = "triton.backends.nvidia.driver:CudaLauncher"


class CompileAhead:
    """`start()`, then `queue(steps)`, and `wait()` before the first real launch. `stop()` in any case.

    Args:
        target: for which kernels are compiled, if it is a CUDA card; elsewhere nothing is done.
        early: what was begun before; None: it is begun here.
    """

    def __init__(self, target: Target, early: EarlyTriton | None = None):
        self._target = target
        # With ROCm kernels are compiled when they are needed.
        self._compiles = target.platform == "cuda" and find_spec("triton") is not None
        self._early = early
        self._process: Child | None = None
        self._jobs = self._answers = -1  # pipes to and from it
        self._notes = KernelNotes(lambda job: self._send(job), LAUNCHER)
        self._count = 0

    def start(self) -> None:
        """Forks the process that compiles: when kernels are imported, which it then has too, and no model is there."""
        if not self._compiles:
            return
        early = self._early = self._early or EarlyTriton.begin()
        assert early is not None
        jobs, self._jobs = os.pipe()
        with contextlib.suppress(OSError):  # room for all jobs: it reads none before it knows Triton's key
            fcntl.fcntl(self._jobs, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(self._jobs, False)
        self._answers, answers = os.pipe()
        self._process = Child(lambda: compiler_process.run(jobs, answers, early.answer), jobs, answers, early.answer)
        os.close(jobs)
        os.close(answers)

    def queue(self, steps: Callable[[], None]) -> None:
        """Runs `steps` with launches that note a compilation and do nothing else; not at all if none would.

        In here tensors on torch's "meta" device count as the target's. What goes wrong is said and no more than that:
        kernels that were not noted are compiled when they are needed.
        """
        if not self._compiles:
            return
        try:
            with compile_for(self._target), self._notes.instead_of_launching():
                steps()
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            logger.warning("not all kernels are compiled ahead, the others when they are needed: %s", reason)
            logger.debug("why noting kernels ended", exc_info=error)

    def _send(self, job: Job) -> None:
        self._count += 1
        if self._jobs >= 0 and not _write(self._jobs, msgspec.json.encode(job) + b"\n"):
            self._close_jobs()

    def wait(self, meanwhile: Callable[[], None] | None = None) -> int:
        """Until all is compiled; returns how many kernels were noted. What hangs is stopped.

        Args:
            meanwhile: steps on the device that are worth running, without our kernels, if there is a time to wait.
        """
        if not self._compiles:
            return 0
        deadline = time.monotonic() + PATIENCE_S
        self._close_jobs()
        self._take_triton_key()
        if not self._ends_before(time.monotonic() + NO_WAIT_S) and meanwhile is not None:
            with compile_for(self._target, "cuda"), KernelNotes(lambda job: None).instead_of_launching():
                meanwhile()
        if not self._ends_before(deadline):
            logger.warning("a compilation took longer than %.0f s; its kernels are compiled when needed", PATIENCE_S)
        self.stop()
        return self._count

    def _ends_before(self, deadline: float) -> bool:
        return all(child is None or child.ends_before(deadline) for child in (self._process, self._early))

    def stop(self) -> None:
        """Ends what is still running."""
        self._close_jobs()
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1
        for child in (self._process, self._early):
            if child is not None:
                child.stop()

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


def _write(pipe: int, data: bytes) -> bool:
    """Whether somebody still reads."""
    while data:
        if not select.select([], [pipe], [], PATIENCE_S)[1]:
            return False
        try:
            data = data[os.write(pipe, data) :]
        except BlockingIOError:  # less room than select counts as some
            time.sleep(0.002)
        except BrokenPipeError:
            return False
    return True
