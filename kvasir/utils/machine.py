"""What this machine has, asked without torch: memory, cores, instruction sets, NVIDIA cards.

Importing torch to ask it would cost seconds in processes that never need it otherwise.
"""

import ctypes
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from kvasir import envs

_MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Card:
    """One NVIDIA card. `capability` is (major, minor), such as (9, 0)."""

    memory_bytes: int
    capability: tuple[int, int]


def host_memory_bytes() -> int:
    """Memory this process may use: the host's, or its container's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(text) for text in map(_read, _MEMORY_LIMITS) if text.isdigit()]
    return min([total, *limits])


def usable_cores() -> int:
    """Cores this process may use: affinity, and the container's quota if that is less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(_CPU_QUOTA).partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """Instruction sets of the first core, by the kernel's names (`avx512_bf16`, `amx_bf16`; `bf16` on Arm)."""
    for line in _read(_CPU_INFO).splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


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


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
