"""What of Triton's beginning needs no torch, done by another process while this one imports torch.

Triton's key, a part of the name of every entry of its disk cache, is a hash over 400 MB of its own files. Its driver is
a piece of C that is compiled before the first launch, unless the disk cache has it. Neither touches the device.
"""

import contextlib
import os
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

from kvasir.utils.child import Child


class EarlyTriton:
    """A process that begins at once.

    Attributes:
        answer: a pipe, read by whoever needs the key first: the key and a line's end. Without the line's end it died.
    """

    def __init__(self) -> None:
        self.answer, end = os.pipe()
        self._child = Child(lambda: _prepare(end), end)
        os.close(end)

    @classmethod
    def begin(cls) -> "EarlyTriton | None":
        return cls() if find_spec("triton") is not None else None

    def ends_before(self, deadline: float) -> bool:
        """Waits, by `time.monotonic`. Once it has ended the driver is in Triton's cache, if it can be compiled here."""
        return self._child.ends_before(deadline)

    def stop(self) -> None:
        if self.answer >= 0:
            os.close(self.answer)
            self.answer = -1
        self._child.stop()


def _prepare(answer: int) -> None:
    from triton.runtime.cache import triton_key

    with contextlib.suppress(OSError), os.fdopen(answer, "w") as pipe:
        pipe.write(triton_key() + "\n")
    with contextlib.suppress(Exception):  # whoever launches a kernel will meet the same error and say it
        build_driver()


def build_driver() -> None:
    """Leaves the C library of Triton's CUDA driver in its cache, for `CudaUtils` to find; it is not loaded here."""
    from triton.backends.nvidia import driver
    from triton.runtime import build

    if not hasattr(driver, "CudaUtils"):
        return
    before, build._load_module_from_path = build._load_module_from_path, lambda name, path: _Unloaded()
    made = driver.PyCUtensorMap
    try:
        object.__new__(driver.CudaUtils).__init__()
    finally:
        build._load_module_from_path = before
        driver.PyCUtensorMap = made


class _Unloaded(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        return None
