"""The CUDA sources compile for sm_90a, by whichever compiler there is, in as few registers as they are planned with."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import triton

from kvasir.ops.cuda import nvrtc, prefill_attention
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


PROMPTS = [(128, 2, 16), (128, 4, 16), (128, 7, 64), (128, 1, 128), (64, 7, 32)]


def prompt_kernel(head_size: int, group: int, block_size: int, dtype: torch.dtype = torch.bfloat16) -> Kernel:
    return prefill_attention.kernel_for(head_size, group, block_size, dtype, (9, 0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_softmax_of_prompts_runs_beside_a_product(tmp_path: Path, dtype: torch.dtype) -> None:
    """An assembler that moves the exponentials behind the wait for the sums takes a tenth of the speed."""
    for shape in PROMPTS:
        compile_to(tmp_path / "kernel.cubin", prompt_kernel(*shape, dtype))
        text = subprocess.run(
            [TOOLS / "nvdisasm", "-c", tmp_path / "kernel.cubin"], capture_output=True, text=True, check=True
        ).stdout
        kinds = re.findall(r"DEPBAR\.LE gsb0, 0x[01]|MUFU\.EX2|HGMMA", text)
        waits = [i for i, kind in enumerate(kinds) if kind.endswith("0x1")]
        assert len(waits) == 4, "two loops, each with a step before it"
        for wait in waits:
            assert kinds[wait + 1 : wait + 65] == ["MUFU.EX2"] * 64, shape


def test_prompts_leave_their_loops_to_registers(tmp_path: Path) -> None:
    for shape in PROMPTS:
        compile_to(tmp_path / "kernel.cubin", prompt_kernel(*shape))
        command = [TOOLS / "nvdisasm", "-c", tmp_path / "kernel.cubin"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        kinds = re.findall(r"BAR\.SYNC\S* R\d+, 0x100|BAR\.ARV|LDL|STL", text)
        first = next(i for i, kind in enumerate(kinds) if kind.startswith("BAR.SYNC"))
        last = max(i for i, kind in enumerate(kinds) if kind == "BAR.ARV")
        assert not {"LDL", "STL"} & set(kinds[first:last]), shape


def test_prompts_read_nothing_before_the_wait(tmp_path: Path) -> None:
    compile_to(tmp_path / "kernel.ptx", prompt_kernel(128, 2, 16))
    before, _, after = (tmp_path / "kernel.ptx").read_text().partition("griddepcontrol.wait")
    assert "wgmma.mma_async" in after and "cp.async.bulk.tensor" in after
    assert not re.search(r"\b(ld|st)\.global|cp\.async|\bret;", before)
