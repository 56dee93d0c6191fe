"""Paged attention in plain torch: row by row, the whole score matrix at once."""

import torch

from kvasir.ops.reference import accumulate_dtype


def visible(
    query_len: int, seq_len: int, sliding_window: int | None, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """[query_len, seq_len] bool: which keys the last query_len tokens of a sequence may see."""
    query_pos = torch.arange(seq_len - query_len, seq_len, device=device).unsqueeze(1)
    key_pos = torch.arange(seq_len, device=device).unsqueeze(0)
    mask = key_pos <= query_pos
    if sliding_window is not None:
        mask &= key_pos > query_pos - sliding_window
    return mask


def attend(
    query: torch.Tensor,  # [L, H, D]
    key: torch.Tensor,  # [C, K, D]
    value: torch.Tensor,  # [C, K, D]
    mask: torch.Tensor,  # [L, C] bool
    scale: float,
    soft_cap: float | None = None,
) -> torch.Tensor:  # [L, H, D], in the accumulation dtype
    """softmax(q k / sqrt) v with explicit scores; H / K query heads share a KV head."""
    group = query.shape[1] // key.shape[1]
    wide = accumulate_dtype(query.dtype)
    key = key.to(wide).repeat_interleave(group, dim=1)  # [C, H, D]
    value = value.to(wide).repeat_interleave(group, dim=1)
    scores = torch.einsum("lhd,chd->hlc", query.to(wide), key) * scale  # [H, L, C]
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return torch.einsum("hlc,chd->lhd", weights, value)


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
    block_size = key_cache.shape[1]
    starts = query_start_loc.tolist()
    output = torch.zeros(query.shape, dtype=query.dtype, device=query.device)
    for row, seq_len in enumerate(seq_lens.tolist()):
        begin, end = starts[row], starts[row + 1]
        if seq_len <= 0 or end <= begin:  # padding
            continue
        blocks = block_table[table_rows[row], : -(-seq_len // block_size)].long()
        key = key_cache[blocks].flatten(0, 1)[:seq_len]  # [C, K, D]
        value = value_cache[blocks].flatten(0, 1)[:seq_len]
        mask = visible(end - begin, seq_len, sliding_window, query.device)
        output[begin:end] = attend(query[begin:end], key, value, mask, scale, soft_cap).to(query.dtype)
    return output
