"""Projections in plain torch."""

import torch
from torch.nn import functional as F

from kvasir.ops.activation import silu_and_mul
from kvasir.ops.dispatch import implementation
from kvasir.ops.norm import add_rms_norm


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x, weight, bias)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return silu_and_mul(F.linear(x, weight, bias))


def norm_linear(
    x: torch.Tensor,
    residual: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return implementation("linear", x.device)(normed, weight, bias), total


def norm_gated_linear(
    x: torch.Tensor,
    residual: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return implementation("gated_linear", x.device)(normed, weight, bias), total
