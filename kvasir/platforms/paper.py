"""A card of paper: what a worker sees where kernels are compiled for a card that is not there.

Its tensors have shapes and no memory, so that a model of any size costs nothing, and nothing is ever computed.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from kvasir.platforms.cpu import host_memory
from kvasir.platforms.cuda import CudaPlatform


class PaperPlatform:
    device_type = "meta"
    row_kinds = CudaPlatform.row_kinds
    name = "paper"

    def __init__(self, capability: tuple[int, int]):
        self.capability = capability

    def open(self, cpu_threads: int | None = None) -> None:
        """There is nothing to open."""

    def memory(self) -> tuple[int, int]:
        return host_memory()

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import torch

        return torch.zeros(shape, dtype=dtype, device="meta")

    def peak_of(self, run: Callable[[], None]) -> int:
        """Not measured, but run: a card would, and launches are what somebody may be waiting for."""
        run()
        return 0

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()
