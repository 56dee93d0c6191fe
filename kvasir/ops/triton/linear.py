"""Projections on the GPU: our own kernel while reading the weight is all there is to it, the library's beyond.

The library is better than 90 % of the bandwidth for large weights and near half of it for small ones; ours is above it in
both, by 3 to 20 % (docs/design/gpu-kernels.md), as long as the rows are few.
"""

import torch
from torch.nn import functional as F

from kvasir.ops.triton import gemv as vector
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.gemv import gemv
from kvasir.ops.triton.skinny_linear import skinny_gated, skinny_linear

MAX_SKINNY_ROWS = 32


def _is_skinny(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return (
        x.dim() == 2
        and 0 < x.shape[0] <= MAX_SKINNY_ROWS
        and x.dtype in (torch.bfloat16, torch.float16)
        and x.stride(1) == 1
        and x.shape[1] % 16 == 0  # whole 16-byte loads from any row
        and x.stride(0) % 8 == 0
        and weight.is_contiguous()
    )


def _is_vector(x: torch.Tensor) -> bool:
    return x.shape[0] <= vector.MAX_ROWS and x.shape[1] <= vector.MAX_INPUTS


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if not _is_skinny(x, weight):
        return F.linear(x, weight, bias)
    return gemv(x, weight, bias) if _is_vector(x) else skinny_linear(x, weight, bias)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if not _is_skinny(x, weight):
        return silu_and_mul(F.linear(x, weight, bias))
    return gemv(x, weight, bias, gated=True) if _is_vector(x) else skinny_gated(x, weight, bias)
