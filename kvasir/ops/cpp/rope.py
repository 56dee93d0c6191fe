"""Rotary position embedding, alone and together with the head norms before it and the cache write after it."""

import torch

from kvasir.ops.cpp import DTYPES
from kvasir.ops.cpu import rope as by_torch
from kvasir.ops.reference import rope_and_cache as by_ops

_apply_rope = torch.ops.kvasir.apply_rope.default
_rope_and_cache = torch.ops.kvasir.rope_and_cache.default
_norm_rope_and_cache = torch.ops.kvasir.norm_rope_and_cache.default


def apply_rope(
    positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin_cache: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if q.dtype in DTYPES:
        return _apply_rope(positions, q, k, cos_sin_cache)
    return by_torch.apply_rope(positions, q, k, cos_sin_cache)


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
    if query.dtype in DTYPES and key_cache.dtype == query.dtype:
        common = (positions, query, key, value, cos_sin_cache, key_cache, value_cache, slot_mapping)
        if query_weight is None and key_weight is None:
            return _rope_and_cache(*common)
        if query_weight is not None and key_weight is not None:
            return _norm_rope_and_cache(*common, query_weight, key_weight, eps)
    return by_ops.rope_and_cache(
        positions, query, key, value, cos_sin_cache, key_cache, value_cache, slot_mapping, query_weight, key_weight, eps
    )
