"""Kernels compiled in threads while the weights are read.

A step is run for the sake of its launches only: each becomes a compilation that somebody else does, and nothing reaches
the card. The compiler leaves the interpreter lock for most of its work, so threads are enough.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

MAX_THREADS = 12


class CompileAhead:
    """`ahead.queue(steps)`; later, before the first real launch, `ahead.wait()`."""

    def __init__(self, device: torch.device):
        self._compiles = device.type == "cuda" and "triton" in sys.modules  # no kernel of ours is used elsewhere
        self._begun: dict[Any, Any] = {}
        self._threads: ThreadPoolExecutor | None = None

    def queue(self, steps: Callable[[], None]) -> None:
        """Runs `steps` with Triton launches that start a compilation and do nothing else; not at all if none would."""
        if self._compiles:
            with self._instead_of_launching():
                steps()

    @contextmanager
    def _instead_of_launching(self) -> Iterator[None]:
        from triton.runtime import _async_compile
        from triton.runtime.jit import JITFunction

        launch = JITFunction.run

        def compile_only(function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            return launch(function, *args, grid=grid, warmup=True, **options)

        threads = max(1, min(MAX_THREADS, os.cpu_count() or 1))
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="kvasir-compile")
        token = _async_compile.active_mode.set(self)  # Triton asks its active mode for `submit` only
        JITFunction.run = compile_only
        try:
            yield
        finally:
            JITFunction.run = launch
            _async_compile.active_mode.reset(token)

    def submit(self, key: Any, compile_fn: Any, finalize_fn: Any) -> Any:
        from triton.runtime._async_compile import FutureKernel

        assert self._threads is not None
        if key not in self._begun:
            self._begun[key] = FutureKernel(finalize_fn, self._threads.submit(compile_fn))
        return self._begun[key]

    def wait(self) -> int:
        """Until all kernels are there; returns their number."""
        count = len(self._begun)
        for kernel in self._begun.values():
            kernel.result()
        self._begun.clear()
        if self._threads is not None:
            self._threads.shutdown()
        return count
