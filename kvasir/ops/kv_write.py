"""Writing a step's keys and values into the paged cache."""

import torch

from kvasir.ops.dispatch import implementation


def reshape_and_cache(
    key: torch.Tensor,  # [T, K, D]
    value: torch.Tensor,  # [T, K, D]
    key_cache: torch.Tensor,  # [N, S, K, D], any strides, last dimension contiguous
    value_cache: torch.Tensor,  # [N, S, K, D], strides of key_cache
    slot_mapping: torch.Tensor,  # [T] int64: block * S + offset; -1 = nowhere
) -> None:
    """cache[slot // S, slot % S] = token, in place, for every token whose slot is not negative."""
    if key.shape != value.shape or key.shape[0] != slot_mapping.shape[0] or key.shape[1:] != key_cache.shape[2:]:
        raise ValueError(
            f"reshape_and_cache: key {tuple(key.shape)}, value {tuple(value.shape)} and slots "
            f"{tuple(slot_mapping.shape)} do not fit a cache of {tuple(key_cache.shape)} [N, S, K, D]"
        )
    implementation("reshape_and_cache", key.device)(key, value, key_cache, value_cache, slot_mapping)
