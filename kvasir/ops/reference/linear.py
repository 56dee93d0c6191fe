"""Projections in plain torch."""

import torch
from torch.nn import functional as F

from kvasir.ops.activation import silu_and_mul


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x, weight, bias)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return silu_and_mul(F.linear(x, weight, bias))
