"""SEAM: a platform answers these questions; `detect()` picks it."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from kvasir.errors import ConfigError


class Platform(Protocol):
    device_type: str  # "cpu" or "cuda", as torch says it
    row_kinds: tuple[int, ...]  # numbers of rows for which a step uses different kernels

    @property
    def name(self) -> str:
        """For people: "NVIDIA H200", "AMD EPYC ..."."""
        ...

    @property
    def capability(self) -> tuple[int, int]:
        """(major, minor) of the card; (0, 0) on CPU."""
        ...

    def open(self, cpu_threads: int | None = None) -> None:
        """Makes the device ready for this process; the worker calls it first, on the thread that runs the steps."""
        ...

    def memory(self) -> tuple[int, int]:
        """(free, total) bytes that this process may use, now."""
        ...

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """A torch tensor of zeros on the device, made without touching its memory where that is possible."""
        ...

    def peak_of(self, run: Callable[[], None]) -> int:
        """Bytes that `run` needed beyond what is held now; 0, and not run, where that cannot be measured."""
        ...

    def stream(self) -> AbstractContextManager[Any]:
        """Within it, all device work of the calling thread goes in the order of its launches, apart from others'."""
        ...


def detect(device: str | None = None) -> Platform:
    """The platform of `device` ("cpu", "cuda", None or "auto": cuda if there is a card).

    Raises:
        ConfigError: cuda is asked for and torch sees no card, or the device is unknown.
    """
    from kvasir.platforms.cpu import CpuPlatform

    if device == "cpu":
        return CpuPlatform()
    if device not in (None, "auto", "cuda"):
        raise ConfigError(f"unknown device {device!r}; choose one of cpu, cuda, auto")
    refusal = _no_cuda()
    if refusal is None:
        from kvasir.platforms.cuda import CudaPlatform

        return CudaPlatform()
    if device == "cuda":
        raise ConfigError(f"device 'cuda' cannot be used: {refusal}; use device 'cpu' or 'auto'")
    return CpuPlatform()


def _no_cuda() -> str | None:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no card or no working driver"
    return None
