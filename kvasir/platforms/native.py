"""The native library (csrc/, built on install as kvasir/_native.so): found, loaded and asked once per process.

Loading registers `torch.ops.kvasir.*` for CPU tensors. Who needs these ops imports `kvasir.ops.cpp`, which fails to
import when the library cannot be loaded; what was going to use them then takes torch's own functions.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from kvasir import envs

LIBRARY = Path(__file__).parents[1] / "_native.so"
ISAS = ("baseline", "avx2", "avx512", "avx512bf16")
"""Instruction sets that the kernels are compiled for, best last; a compiler or a machine may lack some."""

_ON = ("", "auto", "1", "on", "true", "yes")
_OFF = ("0", "off", "false", "no")


@dataclass(frozen=True)
class NativeLibrary:
    """The loaded library, or why there is none (`missing`)."""

    missing: str = ""
    handle: ctypes.CDLL | None = None

    @property
    def isa(self) -> str:
        """The instruction set of the kernels in use; empty without a library."""
        return self.handle.kvasir_isa().decode() if self.handle else ""

    def use_isa(self, isa: str) -> bool:
        """From now on kernels of this set serve all calls; False, and nothing changes, when it cannot run here."""
        return bool(self.handle and self.handle.kvasir_use_isa(isa.encode()))

    def __str__(self) -> str:
        return f"C++ kernels for {self.isa}" if self.handle else f"none, torch computes instead ({self.missing})"


@cache
def native_library() -> NativeLibrary:
    """Loads it on the first call, with what KVASIR_NATIVE says. Imports torch, which has to be loaded before."""
    wish = envs.NATIVE.value.lower()
    if wish in _OFF:
        return NativeLibrary(f"{envs.NATIVE.name} is {wish}")
    if wish not in (*_ON, *ISAS):
        return NativeLibrary(f"{envs.NATIVE.name} is {wish!r}; it may be auto, 0, {', '.join(ISAS)}")
    if not LIBRARY.exists():
        return NativeLibrary(f"{LIBRARY.name} was not built when kvasir was installed: is there a C++ compiler?")
    import torch  # noqa: F401

    try:
        handle = ctypes.CDLL(str(LIBRARY))
        handle.kvasir_register_ops.restype = ctypes.c_char_p
        handle.kvasir_isa.restype = ctypes.c_char_p
        handle.kvasir_use_isa.argtypes = [ctypes.c_char_p]
        error = handle.kvasir_register_ops()
    except (OSError, AttributeError) as failure:
        return NativeLibrary(f"{LIBRARY.name} cannot be loaded: {failure}")
    if error:
        return NativeLibrary(f"{LIBRARY.name} does not fit this torch: {error.decode()}")
    library = NativeLibrary(handle=handle)
    if wish in ISAS:
        any(library.use_isa(isa) for isa in reversed(ISAS[: ISAS.index(wish) + 1]))
    return library
