"""Rotary position embedding, neox style: dimension i turns with dimension i + rot_dim / 2."""

import torch

from kvasir.ops.dispatch import implementation


def apply_rope(
    positions: torch.Tensor,  # [T] integers
    q: torch.Tensor,  # [T, H, D], last dimension contiguous
    k: torch.Tensor,  # [T, K, D]
    cos_sin_cache: torch.Tensor,  # [P, rot_dim] float32: rot_dim / 2 cosines, then as many sines
) -> tuple[torch.Tensor, torch.Tensor]:  # [T, H, D], [T, K, D]
    """Rotates the first rot_dim dimensions of each head and passes the others through.

    Computed in float32 whatever the dtype of q and k. New tensors are returned; q and k are left as they were.
    """
    rot_dim = cos_sin_cache.shape[-1]
    if rot_dim % 2 or rot_dim > q.shape[-1] or q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"apply_rope: rot_dim {rot_dim} must be even and at most the head size of "
            f"q {tuple(q.shape)} and k {tuple(k.shape)}"
        )
    return implementation("apply_rope", q.device)(positions, q, k, cos_sin_cache)
