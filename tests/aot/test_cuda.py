"""The CUDA sources compile for sm_90a, by whichever compiler there is, in as few registers as they are planned with."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import triton

from kvasir.ops.cuda import nvrtc
from kvasir.ops.cuda.kernel import Kernel, source_folder
from kvasir.ops.cuda.skinny_linear import kernel_for, skinny_config

MAX_REGISTERS = 128
"""Two programs of 256 threads on a processor: one works, the next one's weight is on its way."""
TOOLS = Path(triton.__file__).parent / "backends/nvidia/bin"


def compile_to(path: Path, kernel: Kernel) -> None:
    folder = source_folder()
    assert folder is not None
    source = folder / kernel.recipe.file
    if nvrtc.library_path() is not None and path.suffix == ".cubin":
        path.write_bytes(nvrtc.compile_cubin(source.read_text(), source.name, kernel.recipe.options))
        return
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        pytest.skip("there is neither libnvrtc nor nvcc")
    arch = kernel.recipe.options[0].replace("--gpu-architecture=sm_", "")
    target = ["-gencode", f"arch=compute_{arch},code=" + ("sm_" if path.suffix == ".cubin" else "compute_") + arch]
    what = "-cubin" if path.suffix == ".cubin" else "-ptx"
    subprocess.run(
        [nvcc, what, *target, *kernel.recipe.options[1:], source, "-o", path], check=True, capture_output=True
    )


def variants() -> list[Kernel]:
    shapes = [(4096, 1024, False), (1024, 2048, False), (3072, 1024, True), (1024, 3072, False), (1002, 512, False)]
    found = []
    for outputs, inputs, gated in shapes:
        config = skinny_config(outputs, inputs, gated, 132)
        assert config is not None
        for row_tiles in (1, 2):
            found += [kernel_for(row_tiles, inputs, gated, t, config, (9, 0)) for t in (torch.bfloat16, torch.float16)]
    return found


def test_every_variant_compiles_without_spills(tmp_path: Path) -> None:
    for kernel in variants():
        compile_to(tmp_path / "kernel.cubin", kernel)
        command = [TOOLS / "cuobjdump", "-res-usage", tmp_path / "kernel.cubin"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        usage = re.search(r"REG:(\d+) STACK:(\d+)", text)
        assert usage, text
        assert int(usage[1]) <= MAX_REGISTERS and int(usage[2]) == 0, kernel.recipe.options


def test_only_the_weight_is_touched_before_the_wait(tmp_path: Path) -> None:
    kernel = variants()[-1]
    compile_to(tmp_path / "kernel.ptx", kernel)
    before, _, after = (tmp_path / "kernel.ptx").read_text().partition("griddepcontrol.wait")
    assert "griddepcontrol.launch_dependents" in before, "the next kernel asks for its weight, too"
    assert "mma.sync" in after and "st.global" in after
    assert "cp.async.cg" in before and not re.search(r"\b(ld|st)\.global|\bret;", before)
