"""A CUDA card (the process's current one) as a platform."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any


class CudaPlatform:
    device_type = "cuda"
    row_kinds: tuple[int, ...] = (1, 8, 32, 64)

    def __init__(self) -> None:
        self._stream: Any = None

    @property
    def name(self) -> str:
        import torch

        return torch.cuda.get_device_name()

    @property
    def capability(self) -> tuple[int, int]:
        import torch

        return torch.cuda.get_device_capability()

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes as the driver counts them, other processes' use included."""
        import torch

        return torch.cuda.mem_get_info()

    def open(self, cpu_threads: int | None = None) -> None:
        import torch

        torch.cuda.init()
        self._stream = torch.cuda.Stream()  # graphs cannot be captured on the default stream

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        import torch

        return torch.zeros(shape, dtype=dtype, device="cuda")

    def peak_of(self, run: Callable[[], None]) -> int:
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        torch.cuda.empty_cache()  # so that what is free now is what the cache may take
        return peak

    def stream(self) -> AbstractContextManager[Any]:
        import torch

        return torch.cuda.stream(self._stream)
