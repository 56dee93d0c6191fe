"""Paged cache writes in plain torch."""

import torch


def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    block_size = key_cache.shape[1]
    tokens = (slot_mapping >= 0).nonzero().flatten()
    slots = slot_mapping[tokens]
    blocks, offsets = slots // block_size, slots % block_size
    key_cache[blocks, offsets] = key[tokens].to(key_cache.dtype)
    value_cache[blocks, offsets] = value[tokens].to(value_cache.dtype)
