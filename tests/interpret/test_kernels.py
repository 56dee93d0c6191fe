"""Small kernels, interpreted, against the reference."""

import pytest
import torch

from kvasir.ops import reference

pytest.importorskip("triton")

from kvasir.ops.reference import activation, kv_write, norm, rope
from kvasir.ops.reference import rope_and_cache as rope_and_cache_reference
from kvasir.ops.reference import step_inputs as step_inputs_reference
from kvasir.ops.step_inputs import SlotTables, StepInputs
from kvasir.ops.triton import step_inputs
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.kv_write import reshape_and_cache
from kvasir.ops.triton.norm import add_rms_norm, rms_norm
from kvasir.ops.triton.rope import apply_rope
from kvasir.ops.triton.rope_and_cache import rope_and_cache

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 3e-2}


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)


def test_accumulation_is_wide() -> None:
    assert reference.accumulate_dtype(torch.bfloat16) == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 64), (2, 1000), (1, 2048), (0, 64)])
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, weight = (torch.randn(shape) * 3).to(dtype), torch.randn(shape[-1]).to(dtype)
    near(rms_norm(x, weight, 1e-6), norm.rms_norm(x, weight, 1e-6))
    residual = torch.randn(shape).to(dtype)
    for got, want in zip(
        add_rms_norm(x, residual, weight, 1e-6), norm.add_rms_norm(x, residual, weight, 1e-6), strict=True
    ):
        near(got, want)


@pytest.mark.parametrize("tokens", [1, 9])
def test_rms_norm_of_heads_in_a_packed_projection(tokens: int) -> None:
    packed = torch.randn(tokens, 7, 48)
    weight = torch.randn(48)
    for heads in (packed[:, :5], packed[:, 5:]):
        near(rms_norm(heads, weight, 1e-5), norm.rms_norm(heads, weight, 1e-5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [24, 1500])
def test_silu_and_mul(dtype: torch.dtype, size: int) -> None:
    x = (torch.randn(3, 2 * size) * 3).to(dtype)
    near(silu_and_mul(x), activation.silu_and_mul(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rot_dim", "head_size"), [(32, 32), (16, 32), (80, 80), (24, 96), (2, 8)])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 2), (14, 2), (9, 9)])
def test_apply_rope(dtype: torch.dtype, rot_dim: int, head_size: int, num_heads: int, num_kv_heads: int) -> None:
    packed = torch.randn(3, num_heads + num_kv_heads, head_size).to(dtype)
    q, k = packed[:, :num_heads], packed[:, num_heads:]
    cache, positions = torch.rand(50, rot_dim) * 2 - 1, torch.randint(0, 50, (3,))
    for got, want in zip(apply_rope(positions, q, k, cache), rope.apply_rope(positions, q, k, cache), strict=True):
        near(got, want)


@pytest.mark.parametrize("num_kv_heads", [1, 3, 8])
def test_reshape_and_cache(num_kv_heads: int) -> None:
    key, value = torch.randn(5, num_kv_heads, 40), torch.randn(5, num_kv_heads, 40)
    slots = torch.tensor([33, -1, 0, 17, -1])
    caches = [torch.zeros(4, 2, num_kv_heads, 16, 40) for _ in range(2)]  # the Triton backend's layout
    for cache, write in zip(caches, (reshape_and_cache, kv_write.reshape_and_cache), strict=True):
        write(key, value, cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2), slots)
    assert torch.equal(*caches)
    assert int((caches[0] != 0).sum()) == 3 * 2 * num_kv_heads * 40


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_norm", [False, True])
@pytest.mark.parametrize(("rot_dim", "head_size"), [(64, 64), (24, 40)])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(4, 2), (14, 9)])
def test_rope_and_cache(
    dtype: torch.dtype, with_norm: bool, rot_dim: int, head_size: int, num_heads: int, num_kv_heads: int
) -> None:
    packed = torch.randn(4, num_heads + 2 * num_kv_heads, head_size).to(dtype)
    q, k, v = packed.split([num_heads, num_kv_heads, num_kv_heads], dim=1)
    angles, positions = torch.rand(50, rot_dim) * 2 - 1, torch.randint(0, 50, (4,))
    slots = torch.tensor([33, -1, 0, 17])
    weights = [(torch.rand(head_size) + 0.5).to(dtype) if with_norm else None for _ in range(2)]
    found = []
    for op in (rope_and_cache, rope_and_cache_reference.rope_and_cache):
        cache = torch.zeros(4, 2, num_kv_heads, 16, head_size, dtype=dtype)
        views = cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
        found.append((op(positions, q, k, v, angles, *views, slots, *weights, 1e-6), cache))
    for got, want in zip(*found, strict=True):
        near(got, want)


def slot_tables(block_size: int = 4) -> SlotTables:
    """Five slots and the spare one."""
    return SlotTables(
        torch.randint(0, 1000, (6,)),
        torch.cat([torch.randint(0, 20, (5,)), torch.zeros(1, dtype=torch.int64)]),
        torch.randint(0, 90, (6, 8), dtype=torch.int32),
        block_size,
    )


def filled(num_tokens: int, num_rows: int) -> StepInputs:
    return StepInputs(*(torch.full((num_tokens,), -7) for _ in range(3)), torch.full((num_rows,), -7).int())


def copy_of(tables: SlotTables) -> SlotTables:
    return SlotTables(
        tables.last_token.clone(), tables.num_computed.clone(), tables.block_table.clone(), tables.block_size
    )


def check_equal(got: StepInputs, want: StepInputs, tables: SlotTables, tables_want: SlotTables) -> None:
    for name in vars(got):
        assert torch.equal(getattr(got, name), getattr(want, name)), name
    assert torch.equal(tables.num_computed, tables_want.num_computed)


@pytest.mark.parametrize("slots", [[2], [4, 0, 1], [3, 5, 5], [1, 0, 2, 3, 4, 5, 5, 5]])
def test_decode_inputs(slots: list[int]) -> None:
    tables = slot_tables()
    other = copy_of(tables)
    got, want = filled(len(slots), len(slots)), filled(len(slots), len(slots))
    step_inputs.decode_inputs(torch.tensor(slots), tables, got)
    step_inputs_reference.decode_inputs(torch.tensor(slots), other, want)
    check_equal(got, want, tables, other)
    assert int(tables.num_computed[5]) == 0, "the spare slot stays empty"


@pytest.mark.parametrize("lens", [[1], [3, 1], [1, 1, 7], [0, 2, 5], [1, 4, 0, 0]])
@pytest.mark.parametrize("padding", [0, 3])
def test_ragged_inputs(lens: list[int], padding: int) -> None:
    tables = slot_tables()
    other = copy_of(tables)
    slots = torch.tensor([4, 0, 2, 5][: len(lens)])
    starts = torch.tensor([0, *lens]).cumsum(0).int()
    tokens = sum(lens) + padding
    ids = torch.where(torch.rand(tokens) < 0.5, torch.randint(0, 1000, (tokens,)), -1)
    got, want = filled(tokens, len(lens)), filled(tokens, len(lens))
    step_inputs.ragged_inputs(slots, starts, ids, tables, got)
    step_inputs_reference.ragged_inputs(slots, starts, ids, other, want)
    check_equal(got, want, tables, other)
