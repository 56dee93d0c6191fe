"""Kernels compiled by child processes while the weights are read.

A step is run for the sake of its launches only: each is noted as a compilation to be done, and nothing reaches the
card. Children made by fork, which have all modules already, do them and leave the results in Triton's disk cache, where
the first real launch finds them. Threads would not do: half of a compilation is Python.
"""

import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from kvasir.logger import get_logger
from kvasir.ops.cuda import kernel as cuda_kernel

logger = get_logger(__name__)
MAX_CHILDREN = 12
PATIENCE_S = 60.0


class CompileAhead:
    """`queue(steps)`, `start()`, and `wait()` before the first real launch."""

    def __init__(self, device: torch.device):
        self._compiles = device.type == "cuda" and "triton" in sys.modules  # no kernel of ours is used elsewhere
        self._jobs: dict[Any, Callable[[], Any]] = {}
        self._children: list[int] = []

    def queue(self, steps: Callable[[], None]) -> None:
        """Runs `steps` with launches that note a compilation and do nothing else; not at all if none would."""
        if self._compiles:
            with self._instead_of_launching():
                steps()

    @contextlib.contextmanager
    def _instead_of_launching(self) -> Iterator[None]:
        from triton.runtime import _async_compile
        from triton.runtime.jit import JITFunction

        launch = JITFunction.run
        launched: set[Any] = set()

        def compile_only(function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            launched.add(function)
            return launch(function, *args, grid=grid, warmup=True, **options)

        token = _async_compile.active_mode.set(self)  # Triton asks its active mode for `submit` only
        JITFunction.run = compile_only
        cuda_kernel.submit = lambda kernel: self._jobs.setdefault(kernel, kernel.binary)
        try:
            yield
        finally:
            JITFunction.run = launch
            cuda_kernel.submit = None
            _async_compile.active_mode.reset(token)
            for function in launched:
                for kernels, *_ in function.device_caches.values():
                    for key in [key for key, kernel in kernels.items() if kernel is _QUEUED]:
                        del kernels[key]

    def submit(self, key: Any, compile_fn: Callable[[], Any], finalize_fn: Callable[[Any], None]) -> object:
        """Called by Triton with what it would compile."""
        self._jobs.setdefault(key, lambda: _compile(compile_fn))
        finalize_fn(_QUEUED)  # for Triton it is there now: further launches in the same variant cost nothing
        return _QUEUED

    def start(self) -> None:
        """Begins; the parent goes on with something else."""
        jobs = list(self._jobs.values())
        count = min(MAX_CHILDREN, os.cpu_count() or 1, len(jobs))
        if count < 2:
            return
        with warnings.catch_warnings():
            # Threads of libraries do not exist in the children, which use none of them: no CUDA, no products.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._children = [_fork(jobs[part::count]) for part in range(count)]

    def wait(self) -> int:
        """Until the children are done; returns how many kernels were queued. One that hangs is stopped."""
        deadline = time.monotonic() + PATIENCE_S
        while self._children and time.monotonic() < deadline:
            self._children = [child for child in self._children if not _has_ended(child)]
            time.sleep(0.005)
        for child in self._children:
            logger.warning("a compilation took longer than %.0f s; its kernels are compiled when needed", PATIENCE_S)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        return len(self._jobs)


_QUEUED = object()


def _compile(job: Callable[[], Any]) -> None:
    """The kernel, and the piece of C with which Triton launches it, both into the disk cache."""
    from triton.runtime import driver

    kernel = job()
    driver.active.launcher_cls(kernel.src, kernel.metadata)


def _fork(jobs: list[Callable[[], Any]]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        for job in jobs:
            with contextlib.suppress(Exception):  # the parent will meet the same error and say it
                job()
    finally:
        os._exit(0)


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:  # somebody else collected it
        return True
