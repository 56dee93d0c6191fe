"""Small Triton kernels on the card, through the ops' faces, against the reference on the CPU."""

import pytest
import torch

from kvasir import ops
from kvasir.ops.reference import activation, kv_write, norm, rope
from kvasir.ops.reference import rope_and_cache as rope_and_cache_reference

pytestmark = pytest.mark.gpu

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got.cpu(), want, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1024), (300, 1024), (7, 4096), (3, 8192), (5, 1000), (4097, 64), (0, 64)])
def test_norms(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, residual, weight = (torch.randn(s).to(dtype) for s in (shape, shape, shape[-1:]))
    near(ops.rms_norm(x.cuda(), weight.cuda(), 1e-6), norm.rms_norm(x, weight, 1e-6))
    got = ops.add_rms_norm(x.cuda(), residual.cuda(), weight.cuda(), 1e-6)
    for mine, want in zip(got, norm.add_rms_norm(x, residual, weight, 1e-6), strict=True):
        near(mine, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_of_heads_in_a_packed_projection(dtype: torch.dtype) -> None:
    packed, weight = torch.randn(37, 24, 128).to(dtype), torch.randn(128).to(dtype)
    for heads in (slice(0, 16), slice(16, 24)):
        near(ops.rms_norm(packed.cuda()[:, heads], weight.cuda(), 1e-6), norm.rms_norm(packed[:, heads], weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [64, 3072, 14336, 1000])
@pytest.mark.parametrize("tokens", [1, 65])
def test_silu_and_mul(dtype: torch.dtype, size: int, tokens: int) -> None:
    x = torch.randn(tokens, 2 * size).to(dtype)
    near(ops.silu_and_mul(x.cuda()), activation.silu_and_mul(x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rot_dim", "head_size"), [(128, 128), (64, 64), (32, 128), (80, 80), (256, 256)])
@pytest.mark.parametrize("tokens", [1, 77])
def test_apply_rope(dtype: torch.dtype, rot_dim: int, head_size: int, tokens: int) -> None:
    packed = torch.randn(tokens, 20, head_size).to(dtype)
    cache, positions = torch.rand(4096, rot_dim) * 2 - 1, torch.randint(0, 4096, (tokens,))
    on_card = packed.cuda()
    got = ops.apply_rope(positions.cuda(), on_card[:, :16], on_card[:, 16:], cache.cuda())
    want = rope.apply_rope(positions, packed[:, :16], packed[:, 16:], cache)
    for mine, theirs in zip(got, want, strict=True):
        near(mine, theirs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 200])
def test_reshape_and_cache(dtype: torch.dtype, tokens: int) -> None:
    key, value = torch.randn(tokens, 8, 128).to(dtype), torch.randn(tokens, 8, 128).to(dtype)
    slots = torch.randperm(64 * 16)[:tokens]
    slots[::3] = -1
    cache = torch.zeros(64, 2, 8, 16, 128, dtype=dtype)
    mine = cache.cuda()
    views = [(c[:, 0].transpose(1, 2), c[:, 1].transpose(1, 2)) for c in (mine, cache)]
    ops.reshape_and_cache(key.cuda(), value.cuda(), *views[0], slots.cuda())
    kv_write.reshape_and_cache(key, value, *views[1], slots)
    assert torch.equal(mine.cpu(), cache)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_norm", [True, False])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "head_size"), [(16, 8, 128), (32, 8, 128), (14, 2, 64), (4, 2, 32)]
)
@pytest.mark.parametrize("tokens", [1, 130])
def test_rope_and_cache(
    dtype: torch.dtype, with_norm: bool, num_heads: int, num_kv_heads: int, head_size: int, tokens: int
) -> None:
    torch.manual_seed(tokens)
    packed = torch.randn(tokens, num_heads + 2 * num_kv_heads, head_size).to(dtype)
    angles, positions = torch.rand(4096, head_size) * 2 - 1, torch.randint(0, 4096, (tokens,))
    slots = torch.randperm(64 * 16)[:tokens]
    slots[::3] = -1
    weights = [(torch.rand(head_size) + 0.5).to(dtype) if with_norm else None for _ in range(2)]
    found = []
    for device in ("cuda", "cpu"):
        cache = torch.zeros(64, 2, num_kv_heads, 16, head_size, dtype=dtype, device=device)
        views = cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
        q, k, v = packed.to(device).split([num_heads, num_kv_heads, num_kv_heads], dim=1)
        op = ops.rope_and_cache if device == "cuda" else rope_and_cache_reference.rope_and_cache
        moved = [None if w is None else w.to(device) for w in weights]
        out = op(positions.to(device), q, k, v, angles.to(device), *views, slots.to(device), *moved, 1e-6)
        found.append((out, cache))
    for mine, want in zip(*found, strict=True):
        near(mine, want)


SHAPES = [
    (4096, 1024), (1024, 2048), (1024, 3072), (6144, 1024), (1002, 512), (6144, 4096), (4096, 14336), (20000, 96),
    (70, 160),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear(dtype: torch.dtype, outputs: int, inputs: int, with_bias: bool) -> None:
    """Against float64; twice, since the programs that share outputs count on what the launch before left behind."""
    torch.manual_seed(outputs)
    weight = (torch.randn(outputs, inputs, device="cuda") * inputs**-0.5).to(dtype)
    bias = torch.randn(outputs, device="cuda").to(dtype) if with_bias else None
    for rows in (1, 3, 4, 5, 8, 16, 17, 31, 32, 33):
        x = torch.randn(rows, inputs, device="cuda").to(dtype)
        want = torch.nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
        first, second = ops.linear(x, weight, bias), ops.linear(x, weight, bias)
        assert torch.equal(first, second)
        assert ((first.double() - want).norm() / want.norm()).item() < 5e-3, rows
        gate, up = (part.to(dtype).double() for part in want.chunk(2, dim=-1))
        wanted = torch.nn.functional.silu(gate) * up
        gated = ops.gated_linear(x, weight, bias).double()
        assert ((gated - wanted).norm() / wanted.norm()).item() < 1e-2, rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("outputs", "inputs"), [(4096, 1024), (6144, 1024), (6144, 4096), (1500, 2048), (70, 160)])
@pytest.mark.parametrize("gated", [False, True])
def test_norm_and_product(dtype: torch.dtype, outputs: int, inputs: int, gated: bool) -> None:
    """Against float64; the sum of x and its residual bit for bit; twice, for the same bits."""
    torch.manual_seed(outputs)
    weight = (torch.randn(outputs, inputs, device="cuda") * inputs**-0.5).to(dtype)
    norm_weight = (1 + torch.randn(inputs, device="cuda") / 4).to(dtype)
    op = ops.norm_gated_linear if gated else ops.norm_linear
    for rows in (1, 3, 4, 5, 8, 16, 17, 31, 32, 33):
        x, residual = (torch.randn(rows, inputs, device="cuda").to(dtype) for _ in range(2))
        total = x + residual
        wide = total.double()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5) * norm_weight.double()
        want = torch.nn.functional.linear(normed, weight.double())
        if gated:
            gate, up = want.chunk(2, dim=-1)
            want = torch.nn.functional.silu(gate) * up
        first, kept = op(x, residual, norm_weight, 1e-5, weight)
        assert torch.equal(kept, total)
        assert torch.equal(first, op(x, residual, norm_weight, 1e-5, weight)[0])
        assert ((first.double() - want).norm() / want.norm()).item() < 1e-2, rows


def test_our_kernels_serve_every_op_on_cuda() -> None:
    pytest.importorskip("triton")
    by = {choice.op: choice.implementation.partition(".")[0] for choice in ops.choices("cuda")}
    in_cuda = {op for op in by if op.endswith("linear")} if torch.cuda.get_device_capability()[0] == 9 else set()
    assert all(place == ("cuda" if op in in_cuda else "triton") for op, place in by.items()), by
