"""Paged cache writes."""

import torch

from kvasir.ops.cpp import DTYPES
from kvasir.ops.reference import kv_write as by_torch

_reshape_and_cache = torch.ops.kvasir.reshape_and_cache.default


def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    if key.dtype in DTYPES and key_cache.dtype == key.dtype:
        _reshape_and_cache(key, value, key_cache, value_cache, slot_mapping)
    else:
        by_torch.reshape_and_cache(key, value, key_cache, value_cache, slot_mapping)
