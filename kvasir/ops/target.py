"""What the choices between kernels may know of a device: one question, `target_of`, and one way to answer it otherwise.

Within `compile_for` the tensors of a device without memory, torch's "meta", count as those of a card that need not be
there. Launches on them can be noted and compiled, and do all that launches on the card would do but run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch


class Target(NamedTuple):  # a tuple, since it is a key at every call of an op
    """A kind of device.

    Attributes:
        platform: "cuda", "hip", "xpu" or "cpu". ROCm builds of torch call their device "cuda" too; ops tell them apart.
        capability: (major, minor) of a CUDA card; (0, 0) elsewhere, and where there is none.
        processors: multiprocessors of a CUDA card; 0 elsewhere.
    """

    platform: str
    capability: tuple[int, int] = (0, 0)
    processors: int = 0

    @property
    def is_card(self) -> bool:
        return self.platform in ("cuda", "hip")


_stand_in: tuple[str, Target] | None = None
"""Within `compile_for`: a type of device, and the card it counts as."""


def target_of(device: torch.device) -> Target:
    """What `device` is, or what it stands for."""
    if _stand_in is not None and device.type == _stand_in[0]:
        return _stand_in[1]
    return _real(device)


@cache
def _real(device: torch.device) -> Target:
    if device.type != "cuda":
        return Target(device.type)
    if torch.version.hip is not None:
        return Target("hip")
    if not torch.cuda.is_available():
        return Target("cuda")
    properties = torch.cuda.get_device_properties(device)
    return Target("cuda", (properties.major, properties.minor), properties.multi_processor_count)


def target_named(platform: str) -> Target:
    """This machine's first device of a platform, be there one or not."""
    return target_of(torch.device(platform)) if platform != "hip" else Target("hip")


@contextmanager
def compile_for(target: Target, device_type: str = "meta") -> Iterator[None]:
    """In here tensors on `device_type` count as those of `target`, and Triton compiles for it. One at a time."""
    global _stand_in
    before, _stand_in = _stand_in, (device_type, target)
    try:
        with _triton_for(target):
            yield
    finally:
        _stand_in = before


@contextmanager
def _triton_for(target: Target) -> Iterator[None]:
    if find_spec("triton") is None:
        yield
        return
    from triton.runtime import driver

    before = driver._active
    driver.set_active(_PaperDriver(target))
    try:
        yield
    finally:
        driver._active = before


class _PaperDriver:
    """As much of a Triton driver as compiling takes. What launches a kernel needs the card's library."""

    launcher_cls = None

    def __init__(self, target: Target):
        self._target = target

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        major, minor = self._target.capability
        return GPUTarget("cuda", 10 * major + minor, 32)

    def get_current_device(self) -> Target:
        """By this Triton keeps kernels apart; no card has such a number."""
        return self._target

    def get_current_stream(self, device: Target) -> int:
        return 0
