"""Kernels compiled for a card that is not there, through the very launches the engine makes.

A stand-in driver names the target; each launch is turned into a warm-up, which compiles and stops. So the variants
are those of real calls: their types, alignments and constants.
"""

import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("a process that interprets kernels cannot compile them", allow_module_level=True)
triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"
MAX_SHARED_BYTES = 227 * 1024  # what a program may have on sm_90


@dataclass(frozen=True)
class Compiled:
    name: str
    kernel: Any

    @property
    def ptx(self) -> str:
        return self.kernel.asm["ptx"]

    @property
    def shared_bytes(self) -> int:
        return self.kernel.metadata.shared

    def spill_bytes(self, folder: Path) -> int:
        """Stack of a thread, by the tool that comes with Triton: registers that did not fit."""
        tool = TOOLS / "cuobjdump"
        cubin = folder / f"{self.name}.cubin"
        cubin.write_bytes(self.kernel.asm["cubin"])
        text = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
        found = re.search(r"STACK:(\d+)", text)
        assert found, text
        return int(found.group(1))

    def warnings(self, folder: Path) -> list[str]:
        """What the assembler says, such as that products of tensor cores cannot overlap with anything."""
        source = folder / f"{self.name}.ptx"
        source.write_text(self.ptx)
        command = [TOOLS / "ptxas", "-v", "--gpu-name", "sm_90a", source, "-o", folder / "ignored.cubin"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        assert "registers" in text, text
        return [line for line in text.splitlines() if "warning" in line.lower() or "serializ" in line.lower()]


class Card:
    """sm_90 as far as compiling goes."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Compiled]]:
    """The kernels that launches have compiled so far, instead of running them."""
    kernels: list[Compiled] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        kernels.append(Compiled(self.fn.__name__, kernel))
        return kernel

    monkeypatch.setattr(driver, "_active", Card())
    monkeypatch.setattr(JITFunction, "run", compile_only)
    return lambda: kernels
