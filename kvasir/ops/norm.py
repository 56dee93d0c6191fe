"""RMS norm, alone and fused with the residual add in front of it."""

import torch

from kvasir.ops.dispatch import implementation


def rms_norm(
    x: torch.Tensor,  # [..., E], last dimension contiguous
    weight: torch.Tensor,  # [E]
    eps: float,
) -> torch.Tensor:  # [..., E], contiguous
    """x / sqrt(mean(x^2) + eps), computed in float32 and rounded to x's dtype, then times weight."""
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"rms_norm: weight {tuple(weight.shape)} does not fit the last dimension of {tuple(x.shape)}")
    return implementation("rms_norm", x.device)(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor,  # [T, E]
    residual: torch.Tensor,  # [T, E]
    weight: torch.Tensor,  # [E]
    eps: float,
) -> tuple[torch.Tensor, torch.Tensor]:  # [T, E], [T, E]
    """(rms_norm(x + residual), x + residual); the sum is rounded to x's dtype before the norm reads it."""
    if x.shape != residual.shape or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"add_rms_norm: x {tuple(x.shape)}, residual {tuple(residual.shape)} and weight {tuple(weight.shape)} "
            "must be [T, E], [T, E] and [E]"
        )
    return implementation("add_rms_norm", x.device)(x, residual, weight, eps)
