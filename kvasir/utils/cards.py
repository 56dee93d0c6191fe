"""NVIDIA cards, asked without torch.

Importing torch to ask it would cost seconds in a front process that never needs it otherwise.
"""

import ctypes
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kvasir import envs


@dataclass(frozen=True)
class Card:
    """One NVIDIA card. `capability` is (major, minor), such as (9, 0)."""

    memory_bytes: int
    capability: tuple[int, int]


def why_no_cuda() -> str:
    """The first reason why cuda cannot be used here; empty when it can."""
    if envs.VISIBLE_CARDS.value.strip() in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every card"
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():  # the second is WSL's
        return "this machine has no NVIDIA card"
    torch = find_spec("torch")  # looks for the files, runs none of them
    if torch is None or torch.origin is None:
        return "torch is not installed"
    if not (Path(torch.origin).parent / "lib" / "libtorch_cuda.so").exists():
        return "the installed torch has no CUDA support"
    return ""


def first_card() -> Card | None:
    """The card that CUDA calls device 0, from the driver's management library; None if that does not answer."""
    try:
        return _ask_driver(ctypes.CDLL("libnvidia-ml.so.1"))
    except (OSError, AttributeError, ValueError):
        return None


def usable_cards() -> list[str]:
    """The names, as CUDA_VISIBLE_DEVICES takes them, of the cards this process may use; one when nobody says more."""
    named = envs.VISIBLE_CARDS.value
    if named != envs.VISIBLE_CARDS.default:
        return [name.strip() for name in named.split(",") if name.strip()]
    try:
        nvml, count = ctypes.CDLL("libnvidia-ml.so.1"), ctypes.c_uint()
        if nvml.nvmlInit_v2():
            return ["0"]
        try:
            failed = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return ["0"]
    return ["0"] if failed else [str(i) for i in range(max(1, count.value))]


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _ask_driver(nvml: ctypes.CDLL) -> Card | None:
    if nvml.nvmlInit_v2():
        return None
    try:
        handle, memory = ctypes.c_void_p(), _Memory()
        major, minor = ctypes.c_int(), ctypes.c_int()
        first = envs.VISIBLE_CARDS.value.split(",")[0].strip()
        if first.startswith(("GPU-", "MIG-")):
            failed = nvml.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(handle))
        else:
            index = int(first) if first.isdigit() else 0
            failed = nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle))
        failed = failed or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        if failed:
            return None
        if nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)):
            return Card(memory.total, (0, 0))
        return Card(memory.total, (major.value, minor.value))
    finally:
        nvml.nvmlShutdown()
