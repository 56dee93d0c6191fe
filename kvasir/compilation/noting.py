"""Launches that note what is to be compiled and do nothing else."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kvasir.compilation.compiler_process import CudaJob, Job, TritonJob
from kvasir.ops.cuda import kernel as cuda_kernel
from kvasir.ops.cuda.kernel import Recipe

_NOTED = object()


class KernelNotes:
    """Gives each compilation that launches would need to `send`, once.

    Args:
        launcher: see TritonJob; empty: kernels alone are wanted.
    """

    def __init__(self, send: Callable[[Job], None], launcher: str = ""):
        self._send = send
        self._launcher = launcher
        self._launchers: set[tuple[str, ...]] = set()
        self._recipes: set[Recipe] = set()

    @contextmanager
    def instead_of_launching(self) -> Iterator[None]:
        """In here nothing reaches the card, and what is compiled already is not noted."""
        from triton import knobs
        from triton.runtime.jit import JITFunction

        launch, hook, submit = JITFunction.run, knobs.runtime.jit_cache_hook, cuda_kernel.submit
        noted: list[tuple[dict[Any, Any], Any]] = []

        def compile_only(function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
            return launch(function, *args, grid=grid, warmup=True, **options)

        def note(*, key: Any, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
            """Called by Triton with what it would compile; True: it shall not."""
            kernels = fn.jit_function.device_caches[compile["device"]][0]
            kernels[key] = _NOTED  # for Triton it is there now: further launches in the same variant cost nothing
            noted.append((kernels, key))
            self._send(self._job(fn.jit_function, compile))
            return True

        def note_recipe(kernel: cuda_kernel.Kernel) -> None:
            if kernel.recipe not in self._recipes:
                self._recipes.add(kernel.recipe)
                self._send(CudaJob(kernel.recipe))

        cuda_kernel.submit = note_recipe
        JITFunction.run, knobs.runtime.jit_cache_hook = compile_only, note
        try:
            yield
        finally:
            cuda_kernel.submit = submit
            JITFunction.run, knobs.runtime.jit_cache_hook = launch, hook
            for kernels, key in noted:
                if kernels.get(key) is _NOTED:
                    del kernels[key]

    def _job(self, function: Any, asked: dict[str, Any]) -> TritonJob:
        target = function.device_caches[asked["device"]][2]
        launcher = ""
        # The C function that launches a kernel depends on the types of its arguments, where all pointers are alike.
        types = tuple("*" if str(kind).startswith("*") else str(kind) for kind in asked["signature"].values())
        if types not in self._launchers:
            self._launchers.add(types)
            launcher = self._launcher
        where = target.backend, target.arch, target.warp_size
        return TritonJob(function.module, function.__name__, asked["specialization_data"], where, launcher)
