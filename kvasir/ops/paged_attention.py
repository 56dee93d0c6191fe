"""Attention of one ragged step (prefill and decode rows together) over the paged cache."""

import torch

from kvasir.ops.dispatch import implementation


def paged_attention(
    query: torch.Tensor,  # [T, H, D]
    key_cache: torch.Tensor,  # [N, S, K, D], any strides, last dimension contiguous
    value_cache: torch.Tensor,  # [N, S, K, D], strides of key_cache
    query_start_loc: torch.Tensor,  # [R + 1] int32
    seq_lens: torch.Tensor,  # [R] int32, cached + query tokens
    block_table: torch.Tensor,  # [M, max_blocks] int32
    table_rows: torch.Tensor,  # [R] int64, each row's row of block_table
    scale: float,
    *,
    num_decodes: int | None = 0,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
) -> torch.Tensor:  # [T, H, D], contiguous
    """Causal attention of every row's query tokens over that row's keys and values in the cache.

    The step's own keys and values are in the cache already (`reshape_and_cache`). Row r's query tokens are the
    last ones of its sequence. The first `num_decodes` rows have one query token each, token r for row r; None: the
    host does not know how many (a captured launch, whose rows change), but they come first. A row of seq_len 0 is
    padding and gives zeros. `sliding_window` w: a token sees itself and the w - 1 before it.
    `soft_cap` c: scores become c * tanh(score / c) before the mask.
    """
    if query.shape[1] % key_cache.shape[2] or query.shape[2] != key_cache.shape[3]:
        raise ValueError(
            f"paged_attention: query {tuple(query.shape)} [T, H, D] does not fit a cache of "
            f"{tuple(key_cache.shape)} [N, S, K, D]; H must be a multiple of K"
        )
    return implementation("paged_attention", query.device)(
        query,
        key_cache,
        value_cache,
        query_start_loc,
        seq_lens,
        block_table,
        table_rows,
        scale,
        num_decodes=num_decodes,
        sliding_window=sliding_window,
        soft_cap=soft_cap,
    )
