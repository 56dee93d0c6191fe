"""Projections on the GPU: our own kernel while reading the weight is all there is to it, the library's beyond.

The library is better than 90 % of the bandwidth for large weights and near half of it for small ones; ours is above it in
both, by 3 to 20 % (benchmarks/results/h100), as long as the rows are few.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from kvasir.ops.triton import gemv as vector
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.gemv import gemv
from kvasir.ops.triton.norm import AddedNorm, add_rms_norm
from kvasir.ops.triton.skinny_linear import skinny_gated, skinny_linear

MAX_SKINNY_ROWS = 32
MAX_NORMED_INPUTS = 2048


def is_skinny(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.dim() == 2
        and 0 < x.shape[0] <= MAX_SKINNY_ROWS
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.stride(1) == 1
        and x.shape[1] % 16 == 0  # whole 16-byte loads from any row
        and x.stride(0) % 8 == 0
        and weight.is_contiguous()
    )


def is_vector(x: torch.Tensor) -> bool:
    return x.shape[0] <= vector.MAX_ROWS and x.shape[1] <= vector.MAX_INPUTS


def can_norm(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the kernel of the product does the addition and the norm before it.

    Each of its programs then reads all of x and of the residual: that wins 6 % of a step at 1,024 inputs and loses 5 % at 4,096
    (between them nothing was measured).
    With tensor cores (more rows) it loses at either, since a tile that is computed cannot be copied ahead.
    """
    return is_skinny(x, weight) and is_vector(x) and x.shape[1] <= MAX_NORMED_INPUTS


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if not is_skinny(x, weight):
        return F.linear(x, weight, bias)
    return gemv(x, weight, bias) if is_vector(x) else skinny_linear(x, weight, bias)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if not is_skinny(x, weight):
        return silu_and_mul(F.linear(x, weight, bias))
    return gemv(x, weight, bias, gated=True) if is_vector(x) else skinny_gated(x, weight, bias)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gated: bool) -> torch.Tensor:
    return (gated_linear if gated else linear)(x, weight, bias)


def after_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    gated: bool,
    product: Callable[..., torch.Tensor] = _product,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`product` serves where no kernel does the norm too."""
    if not can_norm(x, weight):
        normed, total = add_rms_norm(x, residual, norm_weight, eps)
        return product(normed, weight, bias, gated), total
    norm = AddedNorm(residual.contiguous(), norm_weight, eps, torch.empty(x.shape, dtype=x.dtype, device=x.device))
    return gemv(x, weight, bias, gated, norm), norm.total


def norm_linear(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return after_norm(*inputs, gated=False)


def norm_gated_linear(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return after_norm(*inputs, gated=True)
