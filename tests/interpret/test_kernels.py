"""Small kernels, interpreted, against the reference."""

import pytest
import torch

from kvasir.ops import reference

pytest.importorskip("triton")

from kvasir.ops.reference import activation, kv_write, norm, rope
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.kv_write import reshape_and_cache
from kvasir.ops.triton.norm import add_rms_norm, rms_norm
from kvasir.ops.triton.rope import apply_rope

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


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
