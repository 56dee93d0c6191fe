"""The product with few rows, interpreted."""

import pytest
import torch

pytest.importorskip("triton")

from kvasir.ops.reference.norm import add_rms_norm
from kvasir.ops.triton.gemv import gemv
from kvasir.ops.triton.norm import AddedNorm
from kvasir.ops.triton.skinny_linear import SkinnyConfig, skinny_gated, skinny_linear, tickets


@pytest.mark.parametrize("splits", [1, 2, 3])
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 96, 70), (5, 64, 32), (17, 200, 33)])
@pytest.mark.parametrize("with_bias", [False, True])
def test_against_torch(splits: int, rows: int, inputs: int, outputs: int, with_bias: bool) -> None:
    x, weight = torch.randn(rows, 2 * inputs)[:, :inputs], torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if with_bias else None
    got = skinny_linear(x, weight, bias, SkinnyConfig(32, 32, splits, 4, 1))
    torch.testing.assert_close(got, torch.nn.functional.linear(x, weight, bias), atol=1e-4, rtol=1e-4)
    assert not tickets(x.device).any(), "each launch leaves zeros behind"


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 96, 70), (5, 64, 32), (17, 200, 33)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gated_against_torch(rows: int, inputs: int, outputs: int, with_bias: bool, dtype: torch.dtype) -> None:
    x, weight = torch.randn(rows, inputs).to(dtype), (torch.randn(2 * outputs, inputs) * inputs**-0.5).to(dtype)
    bias = torch.randn(2 * outputs).to(dtype) if with_bias else None
    got = skinny_gated(x, weight, bias, SkinnyConfig(16, 32, 1, 4, 1))
    gate, up = torch.nn.functional.linear(x, weight, bias).chunk(2, dim=-1)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got, torch.nn.functional.silu(gate) * up, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 96, 70), (3, 64, 32), (4, 200, 33), (1, 8192, 3)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_few_rows_by_vectors(rows: int, inputs: int, outputs: int, with_bias: bool, gated: bool) -> None:
    x = torch.randn(rows, 2 * inputs)[:, :inputs]
    weight = torch.randn(outputs * (1 + gated), inputs) * inputs**-0.5
    bias = torch.randn(outputs * (1 + gated)) if with_bias else None
    want = torch.nn.functional.linear(x, weight, bias)
    if gated:
        gate, up = want.chunk(2, dim=-1)
        want = torch.nn.functional.silu(gate) * up
    torch.testing.assert_close(gemv(x, weight, bias, gated), want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(1, 96, 70), (4, 200, 33)])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_before_a_product_by_vectors(
    rows: int, inputs: int, outputs: int, gated: bool, dtype: torch.dtype
) -> None:
    """What the two launches give: the norm is rounded where it is rounded there."""
    x, residual, norm_weight, weight = normed_inputs(rows, inputs, outputs * (1 + gated), dtype)
    norm = AddedNorm(residual, norm_weight, 1e-5, torch.full_like(residual, float("nan")))
    got = gemv(x, weight, None, gated, norm)
    normed, total = add_rms_norm(x, residual, norm_weight, 1e-5)
    torch.testing.assert_close(norm.total, total, atol=0, rtol=one_unit(dtype))
    # A unit in the last place is 0.8 %. A gate, its silu, what it gates and their product may each be one off, and the
    # silu a little more than its gate.
    tolerance = 1e-4 if dtype == torch.float32 else 6 * one_unit(dtype) if gated else 2e-2
    torch.testing.assert_close(got, gemv(normed, weight, None, gated), atol=tolerance, rtol=tolerance)


def one_unit(dtype: torch.dtype) -> float:
    """The interpreter cuts bfloat16 off where a card rounds; tests/gpu asks for equal bits."""
    return 1e-6 if dtype == torch.float32 else 2**-7


def normed_inputs(rows: int, inputs: int, outputs: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    x, residual = torch.randn(rows, 2 * inputs)[:, :inputs].to(dtype), 3 * torch.randn(rows, inputs)
    norm_weight, weight = 1 + torch.randn(inputs) / 4, torch.randn(outputs, inputs) * inputs**-0.5
    return x, residual.to(dtype), norm_weight.to(dtype), weight.to(dtype)
