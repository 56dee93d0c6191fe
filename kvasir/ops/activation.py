"""Gated activations of MLPs."""

import torch

from kvasir.ops.dispatch import implementation


def silu_and_mul(
    x: torch.Tensor,  # [T, 2 * I]: gate, then up
) -> torch.Tensor:  # [T, I]
    """silu(gate) * up; silu is computed in float32 and rounded to x's dtype before the product."""
    if x.shape[-1] % 2:
        raise ValueError(f"silu_and_mul: the last dimension of {tuple(x.shape)} must be even (gate and up)")
    return implementation("silu_and_mul", x.device)(x)
