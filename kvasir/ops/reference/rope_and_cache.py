"""Head norms, rotation and cache write, one after another."""

import torch

from kvasir.ops.reference.kv_write import reshape_and_cache
from kvasir.ops.reference.norm import rms_norm
from kvasir.ops.reference.rope import apply_rope


def rope_and_cache(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    query_weight: torch.Tensor | None = None,
    key_weight: torch.Tensor | None = None,
    eps: float = 0.0,
) -> torch.Tensor:
    if query_weight is not None:
        query = rms_norm(query, query_weight, eps)
    if key_weight is not None:
        key = rms_norm(key, key_weight, eps)
    query, key = apply_rope(positions, query, key, cos_sin_cache)
    reshape_and_cache(key, value, key_cache, value_cache, slot_mapping)
    return query
