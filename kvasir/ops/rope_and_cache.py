"""What stands between the projection and attention: head norms, rotation, and the write into the paged cache."""

import torch

from kvasir.ops.dispatch import implementation


def rope_and_cache(
    positions: torch.Tensor,  # [T] integers
    query: torch.Tensor,  # [T, H, D], last dimension contiguous
    key: torch.Tensor,  # [T, K, D], last dimension contiguous
    value: torch.Tensor,  # [T, K, D], last dimension contiguous
    cos_sin_cache: torch.Tensor,  # [P, rot_dim] float32: rot_dim / 2 cosines, then as many sines
    key_cache: torch.Tensor,  # [N, S, K, D], any strides, last dimension contiguous
    value_cache: torch.Tensor,  # [N, S, K, D], strides of key_cache
    slot_mapping: torch.Tensor,  # [T] int64: block * S + offset; -1 = nowhere
    query_weight: torch.Tensor | None = None,  # [D]
    key_weight: torch.Tensor | None = None,  # [D]
    eps: float = 0.0,
) -> torch.Tensor:  # [T, H, D], contiguous
    """The turned queries; turned keys and values go into the cache.

    The same numbers as `rms_norm` on each head (where there are weights), `apply_rope` and `reshape_and_cache` give one
    after another, rounded in the same places. `query`, `key` and `value` are left as they were.
    """
    rot_dim = cos_sin_cache.shape[-1]
    if key.shape != value.shape or key.shape[0] != slot_mapping.shape[0] or key.shape[1:] != key_cache.shape[2:]:
        raise ValueError(
            f"rope_and_cache: key {tuple(key.shape)}, value {tuple(value.shape)} and slots "
            f"{tuple(slot_mapping.shape)} do not fit a cache of {tuple(key_cache.shape)} [N, S, K, D]"
        )
    if rot_dim % 2 or rot_dim > query.shape[-1] or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"rope_and_cache: rot_dim {rot_dim} must be even and at most the head size of "
            f"query {tuple(query.shape)} and key {tuple(key.shape)}"
        )
    return implementation("rope_and_cache", query.device)(
        positions, query, key, value, cos_sin_cache, key_cache, value_cache, slot_mapping, query_weight, key_weight, eps
    )
