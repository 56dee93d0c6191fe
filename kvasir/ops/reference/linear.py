"""Projections in plain torch."""

from typing import Any

import torch
from torch.nn import functional as F

from kvasir.ops.activation import silu_and_mul
from kvasir.ops.dispatch import implementation
from kvasir.ops.norm import add_rms_norm


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return F.linear(x, weight, bias)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return silu_and_mul(F.linear(x, weight, bias))


def _after_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    norm_weight: torch.Tensor,
    eps: float,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    op: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    normed, total = add_rms_norm(x, residual, norm_weight, eps)
    return implementation(op, x.device)(normed, weight, bias), total


def norm_linear(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _after_norm(*inputs, op="linear")


def norm_gated_linear(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return _after_norm(*inputs, op="gated_linear")
