"""Every Triton kernel compiles for sm_90 in the variants that models use, fits the card, and uses its tensor cores."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from kvasir.attention.triton import TritonBackend, TritonMetadata
from kvasir.ops.step_inputs import SlotTables, StepInputs
from kvasir.ops.triton import paged_attention, sample, step_inputs
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.gemv import gemv
from kvasir.ops.triton.norm import AddedNorm, add_rms_norm, rms_norm
from kvasir.ops.triton.rope import apply_rope
from kvasir.ops.triton.rope_and_cache import rope_and_cache
from kvasir.ops.triton.skinny_linear import SkinnyConfig, skinny_gated, skinny_linear
from tests.aot.conftest import MAX_SHARED_BYTES
from tests.attention.ragged import Shape, make_step

LENS = [(40, 1), (3, 1), (20, 30), (0, 50)]
READ_AHEAD = ("gemv_kernel", "decode_kernel", "_rope_and_cache_kernel", "prefill_overlap_kernel")
"""Kernels that read weights or the step's inputs before they wait."""
MAX_SPILL_BYTES = 128
"""A few saved addresses are harmless; float32 prefill over wide heads is known to spill and is no hot path."""


def launch(compiled, shape: Shape, dtype: torch.dtype, window: int | None = None, cap: float | None = None) -> dict:
    step = make_step(LENS, shape, dtype, 0)
    cache = torch.zeros(
        TritonBackend.kv_cache_shape(step.num_blocks, shape.block_size, shape.num_kv_heads, shape.head_size),
        dtype=dtype,
    )
    impl = TritonBackend.make_impl(shape.num_heads, shape.head_size, 0.1, shape.num_kv_heads, window, cap)
    impl.forward(step.query, step.new(step.keys), step.new(step.values), cache, TritonMetadata(step.batch))
    return {kernel.name: kernel for kernel in compiled()}


@pytest.mark.parametrize(
    ("shape", "window", "cap"),
    [
        (Shape(16, 8, 128, 16), None, None),  # Qwen3-0.6B
        (Shape(32, 8, 128, 16), None, None),  # Llama-3.1-8B
        (Shape(32, 8, 128, 16), 4096, None),  # Mistral
        (Shape(14, 2, 64, 32), None, None),  # Qwen2.5-0.5B
        (Shape(8, 4, 256, 16), 4096, 50.0),  # Gemma 2
        (Shape(32, 32, 96, 64), None, None),  # Phi-3
        (Shape(32, 32, 80, 128), None, None),  # Phi-2
    ],
)
def test_attention_in_sixteen_bits(compiled, tmp_path: Path, shape: Shape, window: int | None, cap: float | None):
    kernels = launch(compiled, shape, torch.bfloat16, window, cap)
    assert set(kernels) == {"_reshape_and_cache_kernel", "decode_kernel", "prefill_kernel"}
    for kernel in kernels.values():
        assert kernel.shared_bytes <= MAX_SHARED_BYTES
        assert kernel.spill_bytes(tmp_path) <= MAX_SPILL_BYTES, kernel.name
    assert "wgmma.mma_async" in kernels["prefill_kernel"].ptx
    assert "mma.sync" in kernels["decode_kernel"].ptx
    for name in ("prefill_kernel", "decode_kernel"):
        assert "cp.async.cg" in kernels[name].ptx, f"{name}: 16-byte copies that run ahead"


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "shape",
    [
        Shape(16, 8, 128, 16),  # Qwen3-0.6B
        Shape(32, 8, 128, 32),  # Llama-3.1-8B
        Shape(28, 4, 128, 64),  # Qwen2.5-7B
        Shape(64, 1, 128, 16),  # all heads of a token in a tile
        Shape(14, 2, 64, 16),  # Qwen2.5-0.5B
    ],
)
def test_prefill_with_overlap(compiled, tmp_path: Path, shape: Shape, dtype: torch.dtype):
    kernel = launch(compiled, shape, dtype)["prefill_overlap_kernel"]
    assert kernel.spill_bytes(tmp_path) == 0
    assert kernel.shared_bytes <= MAX_SHARED_BYTES // 2, "two programs on a processor"
    assert not kernel.warnings(tmp_path), "products in series"
    steps = re.findall(r"wgmma\.wait_group\S*\s+1;(.*?)wgmma\.wait_group\S*\s+0;", kernel.ptx, re.DOTALL)
    assert len(steps) == 2, "tiles without a mask, and with one"
    assert all("ex2.approx" in step for step in steps), "a softmax while a product runs"
    copies = re.findall(r"cp\.async\.\S+\s.*?, (0x\w+|\d+)", kernel.ptx)
    assert copies and all(int(size, 0) == 16 for size in copies), "16 bytes a copy"


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize(
    ("shape", "dtype", "window", "cap"),
    [
        (Shape(16, 8, 128, 16), torch.bfloat16, 100, None),
        (Shape(16, 8, 128, 16), torch.bfloat16, None, 5.0),
        (Shape(16, 8, 64, 16), torch.float32, None, None),
        (Shape(4, 2, 96, 16), torch.bfloat16, None, None),
        (Shape(4, 2, 128, 128), torch.bfloat16, None, None),
        (Shape(65, 1, 64, 16), torch.bfloat16, None, None),
    ],
)
def test_prefill_without_overlap(compiled, shape: Shape, dtype: torch.dtype, window: int | None, cap: float | None):
    """What the kernel for Hopper does not do goes to the other one."""
    assert "prefill_kernel" in launch(compiled, shape, dtype, window, cap)


def test_prefill_without_gluon(compiled, monkeypatch, hopper):
    monkeypatch.setattr(paged_attention, "prefill_overlap", None)
    assert "prefill_kernel" in launch(compiled, Shape(16, 8, 128, 16), torch.bfloat16)


@pytest.mark.usefixtures("hopper")
def test_a_query_that_is_not_aligned_is_served_all_the_same(compiled):
    query, cache = torch.zeros(5, 4 * 128 + 4, dtype=torch.bfloat16), torch.zeros(2, 16, 2, 128, dtype=torch.bfloat16)
    numbers = torch.tensor([0, 5], dtype=torch.int32)
    query = query[:, : 4 * 128].view(5, 4, 128)
    paged_attention.paged_attention(query, cache, cache, numbers, numbers[1:], numbers[None], numbers[:1].long(), 1.0)
    assert [kernel.name for kernel in compiled()] == ["prefill_kernel"]


@pytest.mark.parametrize("on_hopper", [False, True])
def test_a_step_whose_rows_only_the_device_knows(compiled, request, tmp_path: Path, on_hopper: bool):
    if on_hopper:
        request.getfixturevalue("hopper")
    step = make_step(LENS, Shape(16, 8, 128, 16), torch.bfloat16, 0)
    cache = torch.zeros(TritonBackend.kv_cache_shape(step.num_blocks, 16, 8, 128), dtype=torch.bfloat16)
    batch = dataclasses.replace(step.batch, num_decodes=None)
    TritonBackend.make_impl(16, 128, 0.1, 8).forward(
        step.query, step.new(step.keys), step.new(step.values), cache, TritonMetadata(batch)
    )
    prefill = "prefill_overlap_kernel" if on_hopper else "prefill_kernel"
    assert {"decode_kernel", prefill} < {kernel.name for kernel in compiled()}
    assert all(kernel.spill_bytes(tmp_path) <= MAX_SPILL_BYTES for kernel in compiled())


def test_attention_in_float16(compiled):
    assert "wgmma.mma_async" in launch(compiled, Shape(16, 8, 128, 16), torch.float16)["prefill_kernel"].ptx


def test_attention_in_float32(compiled):
    kernels = launch(compiled, Shape(16, 8, 64, 16), torch.float32)
    assert all(kernel.shared_bytes <= MAX_SHARED_BYTES for kernel in kernels.values())


@pytest.mark.parametrize(("window", "shorter"), [(100, 16), (None, None)])
def test_a_longer_batch_compiles_nothing_new(compiled, hopper, window: int | None, shorter: int | None):
    """What changes from step to step must not select another variant."""
    shape = Shape(16, 8, 64, 16)
    first = dict(launch(compiled, shape, torch.bfloat16, window))
    assert ("prefill_overlap_kernel" in first) == (window is None)
    names = {name: id(kernel.kernel) for name, kernel in first.items()}
    compiled().clear()
    for lens in ([(1, 1)] * 16 + [(0, 16)], [(640, 1), (0, 1), (16, 17)], [(31, 1)]):
        step = make_step(lens, shape, torch.bfloat16, 0)
        cache = torch.zeros(TritonBackend.kv_cache_shape(step.num_blocks, 16, 8, 64), dtype=torch.bfloat16)
        impl = TritonBackend.make_impl(16, 64, 0.1, 8, shorter)
        impl.forward(step.query, step.new(step.keys), step.new(step.values), cache, TritonMetadata(step.batch))
    assert compiled()
    for kernel in compiled():
        assert id(kernel.kernel) == names[kernel.name], f"{kernel.name} was compiled again"


@pytest.mark.parametrize("size", [64, 1024, 4096, 8192])
def test_small_kernels(compiled, tmp_path: Path, size: int):
    x = torch.zeros(3, size, dtype=torch.bfloat16)
    rms_norm(x, x[0], 1e-6)
    rms_norm(torch.zeros(3, 10, 128, dtype=torch.bfloat16)[:, :8], torch.zeros(128, dtype=torch.bfloat16), 1e-6)
    add_rms_norm(x, x, x[0], 1e-6)
    silu_and_mul(x)
    q = torch.zeros(3, 6, 128, dtype=torch.bfloat16)
    apply_rope(torch.zeros(3, dtype=torch.int64), q[:, :4], q[:, 4:], torch.zeros(9, 128))
    assert len(compiled()) == 5
    for kernel in compiled():
        assert kernel.spill_bytes(tmp_path) == 0, kernel.name
        assert "ld.global.v4" in kernel.ptx or size < 1024, f"{kernel.name}: wide loads"


@pytest.mark.parametrize("rows", [1, 32])
def test_skinny_linear(compiled, tmp_path: Path, rows: int):
    x, weight = torch.zeros(rows, 1024, dtype=torch.bfloat16), torch.zeros(4096, 1024, dtype=torch.bfloat16)
    skinny_linear(x, weight, None, SkinnyConfig(64, 128, 2, 4, 4))
    (kernel,) = compiled()
    assert "wgmma.mma_async" in kernel.ptx and "cp.async.cg" in kernel.ptx
    assert kernel.spill_bytes(tmp_path) == 0 and kernel.shared_bytes <= MAX_SHARED_BYTES


def test_step_inputs_in_any_batch_compile_once(compiled):
    tables = SlotTables(torch.zeros(9).long(), torch.zeros(9).long(), torch.zeros(9, 8, dtype=torch.int32), 16)
    for rows in (1, 2, 16, 300):
        out = StepInputs(*(torch.zeros(rows).long() for _ in range(3)), torch.zeros(rows, dtype=torch.int32))
        step_inputs.decode_inputs(torch.zeros(rows).long(), tables, out)
        step_inputs.ragged_inputs(
            torch.zeros(rows).long(), torch.zeros(rows + 1, dtype=torch.int32), torch.zeros(rows).long(), tables, out
        )
    for name in ("_decode_inputs_kernel", "_ragged_inputs_kernel"):
        assert len({id(k.kernel) for k in compiled() if k.name == name}) == 1, name


def test_rope_and_cache(compiled, tmp_path: Path):
    packed = torch.zeros(3, 32, 128, dtype=torch.bfloat16)
    cache = torch.zeros(4, 2, 8, 16, 128, dtype=torch.bfloat16)
    views = cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
    q, k, v = packed.split([16, 8, 8], dim=1)
    weight = torch.zeros(128, dtype=torch.bfloat16)
    rope_and_cache(
        torch.zeros(3).long(), q, k, v, torch.zeros(9, 128), *views, torch.zeros(3).long(), weight, weight, 1e-6
    )
    (kernel,) = compiled()
    assert kernel.spill_bytes(tmp_path) == 0 and "ld.global.v4" in kernel.ptx


def test_dependent_launches_wait_before_they_touch_anything(compiled, hopper, tmp_path: Path):
    """As on a card: every kernel of a step waits for the one before it; what is read earlier is known."""
    with pytest.MonkeyPatch.context() as without_gluon:
        without_gluon.setattr(paged_attention, "prefill_overlap", None)
        launch(compiled, Shape(16, 8, 128, 16), torch.bfloat16)
    assert "prefill_overlap_kernel" in launch(compiled, Shape(16, 8, 128, 16), torch.bfloat16)
    x, weight = torch.zeros(4, 1024, dtype=torch.bfloat16), torch.zeros(4096, 1024, dtype=torch.bfloat16)
    skinny_linear(x, weight, None)
    skinny_linear(x, weight[:1024], None)
    skinny_gated(x, weight, None)
    gemv(x, weight, norm=AddedNorm(x, x[0], 1e-6, torch.zeros_like(x)))
    gemv(x, weight)
    gemv(x, weight, gated=True)
    rms_norm(x, x[0], 1e-6)
    silu_and_mul(x)
    slots, floats = torch.zeros(4).long(), torch.zeros(4)
    sample.sample_tokens(x, slots, floats, slots, slots, sample.cutoffs(x, slots, floats, slots, floats, floats))
    head, cache = torch.zeros(1, 8, 128, dtype=torch.bfloat16), torch.zeros(4, 16, 8, 128, dtype=torch.bfloat16)
    rope_and_cache(slots[:1], head, head, head, torch.zeros(9, 128), cache, cache, slots[:1])
    assert len(compiled()) == 18
    for kernel in compiled():
        before, _, after = kernel.ptx.partition("griddepcontrol.wait")
        assert after and "griddepcontrol.launch_dependents" in (before if "rms_norm" in kernel.name else after), (
            kernel.name
        )
        touched = set(re.findall(r"\b(ld|st)\.global|\b(cp\.async\.cg)|\b(ret);", before))
        if kernel.name in READ_AHEAD:
            assert touched == {("ld", "", "")}
        else:
            assert not touched, f"{kernel.name} does not wait first"
        assert ("prefetch.L2" in before) == kernel.name.startswith("skinny"), kernel.name
        assert kernel.spill_bytes(tmp_path) <= MAX_SPILL_BYTES
