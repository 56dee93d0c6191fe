"""Paged attention of one ragged step."""

import torch

from kvasir.ops.cpp import DTYPES
from kvasir.ops.reference import paged_attention as by_torch

_paged_attention = torch.ops.kvasir.paged_attention.default


def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    table_rows: torch.Tensor,
    scale: float,
    *,
    num_decodes: int | None = 0,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
) -> torch.Tensor:
    common = (query, key_cache, value_cache, query_start_loc, seq_lens, block_table, table_rows, scale)
    if query.dtype in DTYPES and key_cache.dtype == query.dtype:
        return _paged_attention(*common, sliding_window or 0, soft_cap or 0.0)
    return by_torch.paged_attention(*common, sliding_window=sliding_window, soft_cap=soft_cap)
