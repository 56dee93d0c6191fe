"""The CPU as a platform. Everything but `open` works without torch."""

import math
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from kvasir import envs
from kvasir.errors import ConfigError
from kvasir.logger import get_logger
from kvasir.platforms.native import native_library

logger = get_logger(__name__)

_LINE_BYTES = 64  # of a cache line, and of the widest vector
_CGROUP = Path("/sys/fs/cgroup")


@cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def cpu_flags() -> frozenset[str]:
    """Instruction sets by the kernel's names; empty where the kernel does not tell."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return frozenset(line.group(1).split()) if line else frozenset()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def cpu_cores(cgroup: Path = _CGROUP) -> int:
    """Cores this process may use: its affinity mask, cut by the container's quota (rounded down, at least 1)."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")  # version 2
    if not quota:
        quota = _read(cgroup / "cpu/cpu.cfs_quota_us")  # version 1; -1 is none
        period = _read(cgroup / "cpu/cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period):
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def host_memory(cgroup: Path = _CGROUP, meminfo: Path = Path("/proc/meminfo")) -> tuple[int, int]:
    """(free, total) bytes of the host, cut by the container's limit."""
    kib: dict[str, str] = dict(re.findall(r"^(\w+):\s+(\d+) kB", _read(meminfo), re.MULTILINE))
    total = int(kib.get("MemTotal", 0)) * 1024
    free = int(kib.get("MemAvailable", kib.get("MemFree", 0))) * 1024
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, used = _read(cgroup / limit_file), _read(cgroup / used_file)
        if limit.isdigit() and int(limit) < total:  # "max" and version 1's huge number mean none
            total = int(limit)
            free = min(free, total - int(used or 0))
    return max(free, 0), total


class CpuPlatform:
    device_type = "cpu"
    row_kinds: tuple[int, ...] = (2,)
    capability = (0, 0)

    @property
    def name(self) -> str:
        model = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
        return model.group(1).strip() if model else "CPU"

    def memory(self) -> tuple[int, int]:
        return host_memory()

    def open(self, cpu_threads: int | None = None) -> None:
        import torch

        if cpu_threads:
            torch.set_num_threads(cpu_threads)
        library = native_library()
        if library.handle:
            logger.info("native library: %s", library)
        elif envs.REQUIRE_NATIVE.flag:
            raise ConfigError(f"{envs.REQUIRE_NATIVE.name} is set, but there are no C++ kernels: {library.missing}")
        else:
            logger.warning("native library: %s; the same answers, slower", library)

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """numpy asks the kernel for zero pages, which cost nothing until they are written; torch would write all."""
        import numpy as np
        import torch

        size = math.prod(shape) * dtype.itemsize
        cells = np.zeros(size + _LINE_BYTES, dtype=np.uint8)
        start = -cells.ctypes.data % _LINE_BYTES
        return torch.from_numpy(cells[start : start + size]).view(dtype).view(shape)

    def peak_of(self, run: Callable[[], None]) -> int:
        """Not measured: the host has memory that others use too, so the cache's size is a rule, not a remainder."""
        return 0

    def stream(self) -> AbstractContextManager[Any]:
        return nullcontext()
