"""Kernels compiled for a card that is not there, through the very launches the engine makes.

`compile_for` names the target; each launch is turned into a warm-up, which compiles and stops. So the variants
are those of real calls: their types, alignments and constants.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("a process that interprets kernels cannot compile them", allow_module_level=True)
triton = pytest.importorskip("triton")

from triton.runtime.jit import JITFunction  # noqa: E402

from kvasir.ops.cuda import kernel as cuda_kernel  # noqa: E402
from kvasir.ops.cuda.kernel import Recipe  # noqa: E402
from kvasir.ops.target import Target, compile_for  # noqa: E402

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


H100 = Target("cuda", (9, 0), 132)


recipes: set[Recipe] = set()
"""Those of the kernels in CUDA C++ that launches have asked for within `compiled`."""


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[Compiled]]]:
    """The kernels that launches have compiled so far for an H100, instead of running them.

    Choices for tensors on the host are not the H100's, unless a test says so by a `compile_for` of its own.
    """
    kernels: list[Compiled] = []
    recipes.clear()
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *args, grid=grid, warmup=True, **options)
        kernels.append(Compiled(self.fn.__name__, kernel))
        return kernel

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(cuda_kernel, "submit", lambda kernel: recipes.add(kernel.recipe))
    with compile_for(H100):
        yield lambda: kernels


@pytest.fixture
def hopper(compiled: Callable[[], list[Compiled]]) -> Iterator[None]:
    """As if tensors on the host were on such a card."""
    with compile_for(H100, "cpu"):
        yield
