"""Projections, alone, with the norm before them and with the gated activation behind them."""

import torch

from kvasir.ops.dispatch import implementation


def linear(
    x: torch.Tensor,  # [T, K], last dimension contiguous
    weight: torch.Tensor,  # [N, K] contiguous
    bias: torch.Tensor | None = None,  # [N]
) -> torch.Tensor:  # [T, N]
    """x W^T + b, accumulated in float32."""
    return implementation("linear", x.device)(x, weight, bias)


def gated_linear(
    x: torch.Tensor,  # [T, K], last dimension contiguous
    weight: torch.Tensor,  # [2 * I, K] contiguous: gate, then up
    bias: torch.Tensor | None = None,  # [2 * I]
) -> torch.Tensor:  # [T, I]
    """silu_and_mul(linear(x)), rounded where the two ops round."""
    return implementation("gated_linear", x.device)(x, weight, bias)


def norm_linear(
    x: torch.Tensor,  # [T, K], last dimension contiguous
    residual: torch.Tensor,  # [T, K]
    norm_weight: torch.Tensor,  # [K]
    eps: float,
    weight: torch.Tensor,  # [N, K] contiguous
    bias: torch.Tensor | None = None,  # [N]
) -> tuple[torch.Tensor, torch.Tensor]:  # [T, N], [T, K]
    """(linear(rms_norm(x + residual)), x + residual): a projection and the norm before it.

    The sum is rounded to x's dtype. Where one kernel does it all, the norm's factor may be applied behind the product.
    """
    return implementation("norm_linear", x.device)(x, residual, norm_weight, eps, weight, bias)


def norm_gated_linear(
    x: torch.Tensor,  # [T, K], last dimension contiguous
    residual: torch.Tensor,  # [T, K]
    norm_weight: torch.Tensor,  # [K]
    eps: float,
    weight: torch.Tensor,  # [2 * I, K] contiguous: gate, then up
    bias: torch.Tensor | None = None,  # [2 * I]
) -> tuple[torch.Tensor, torch.Tensor]:  # [T, I], [T, K]
    """(gated_linear(rms_norm(x + residual)), x + residual)."""
    return implementation("norm_gated_linear", x.device)(x, residual, norm_weight, eps, weight, bias)
