"""Projections, alone and with the gated activation behind them."""

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
