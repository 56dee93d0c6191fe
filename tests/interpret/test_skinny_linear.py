"""The product with few rows, interpreted."""

import pytest
import torch

pytest.importorskip("triton")

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
    got = skinny_gated(x, weight, bias, SkinnyConfig(32, 32, 1, 4, 1))
    gate, up = torch.nn.functional.linear(x, weight, bias).chunk(2, dim=-1)
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(got, torch.nn.functional.silu(gate) * up, atol=tolerance, rtol=tolerance)
