"""Decode: one query token per row, its sequence cut into splits that run side by side, then put together.

Row r's query is token r. How a row is cut follows from its length and two numbers of the launch (`split_length`), so that
both kernels agree without a message. Rows that need one split write their output directly; rows of length 0 (padding) write zeros.
"""

import triton
import triton.language as tl

# tf32x3: float32 products as three tensor-core products, close to float32 (16-bit inputs ignore it).
_DOT = tl.constexpr("tf32x3")


@triton.jit
def first_key(seq_len, window, HAS_WINDOW: tl.constexpr):
    start = 0
    if HAS_WINDOW:
        start = tl.maximum(seq_len - window, 0)
    return start


@triton.jit
def split_length(num_keys, splits, min_split, BLOCK_N: tl.constexpr):
    """Keys per split, whole tiles: as few splits as min_split allows, at most `splits`."""
    splits = tl.minimum(tl.maximum(tl.cdiv(num_keys, min_split), 1), splits)
    return tl.maximum(tl.cdiv(tl.cdiv(num_keys, splits), BLOCK_N), 1) * BLOCK_N


@triton.jit
def scaled_scores(q, k, score_scale, cap, HAS_CAP: tl.constexpr):
    """q k^T in units of log 2, float32. tanh(x) = 1 - 2 / (exp(2 x) + 1), with exp as exp2."""
    scores = tl.dot(q, k, input_precision=_DOT) * score_scale
    if HAS_CAP:
        scores = cap * (1.0 - 2.0 / (tl.exp2(scores * 2.8853900817779268) + 1.0))
    return scores


@triton.jit(do_not_specialize=["stride_table", "splits", "min_split", "window"])
def decode_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    seq_lens_ptr,
    table_ptr,
    output_ptr,
    partial_ptr,
    lse_ptr,
    stride_table,
    splits,
    min_split,
    score_scale,
    cap,
    window,
    stride_query_token,
    stride_query_head,
    stride_block,
    stride_slot,
    stride_head,
    G: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    S: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
    H: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    kv_head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    seq_len = tl.load(seq_lens_ptr + row)
    start = first_key(seq_len, window, HAS_WINDOW)
    per_split = split_length(seq_len - start, splits, min_split, BLOCK_N)
    begin = start + split * per_split
    end = tl.minimum(begin + per_split, seq_len)
    if (begin >= end) & (split > 0):
        return

    packed = tl.arange(0, BLOCK_M)
    lane = tl.arange(0, D_PAD)
    heads = kv_head * G + packed
    present = (packed < G)[:, None] & (lane < D)[None, :]
    query = query_ptr + row * stride_query_token + heads[:, None] * stride_query_head + lane[None, :]
    q = tl.load(query, mask=present, other=0.0)  # [G, D]

    top = tl.full([BLOCK_M], -1e30, tl.float32)  # running maximum; finite, so that -inf - top is -inf
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
    table = table_ptr + row * stride_table
    for first in range(begin, end, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        valid = keys < end
        block = tl.load(table + keys // S, mask=valid, other=0).to(tl.int64)
        offset = block * stride_block + (keys % S) * stride_slot + kv_head * stride_head  # [C]
        k_mask = valid[None, :] & (lane < D)[:, None]
        k = tl.load(key_ptr + offset[None, :] + lane[:, None], mask=k_mask, other=0.0)  # [D, C]
        scores = tl.where(valid[None, :], scaled_scores(q, k, score_scale, cap, HAS_CAP), float("-inf"))  # [G, C]
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        shrink = tl.exp2(top - new_top)
        weights = tl.exp2(scores - new_top[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        v_mask = valid[:, None] & (lane < D)[None, :]
        v = tl.load(value_ptr + offset[:, None] + lane[None, :], mask=v_mask, other=0.0)  # [C, D]
        acc = acc * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=_DOT)
        top = new_top

    acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]  # zeros for a padded row
    if seq_len - start <= per_split:
        target = output_ptr + (row * H + heads)[:, None] * D + lane[None, :]
        tl.store(target, acc.to(output_ptr.dtype.element_ty), mask=present)
    else:
        part = (row * H + heads) * splits + split
        tl.store(partial_ptr + part[:, None] * D + lane[None, :], acc, mask=present)
        tl.store(lse_ptr + part, top + tl.log2(total), mask=packed < G)


@triton.jit(do_not_specialize=["splits", "min_split", "window"])
def reduce_kernel(
    seq_lens_ptr,
    output_ptr,
    partial_ptr,
    lse_ptr,
    splits,
    min_split,
    window,
    H: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    seq_len = tl.load(seq_lens_ptr + row)
    num_keys = seq_len - first_key(seq_len, window, HAS_WINDOW)
    per_split = split_length(num_keys, splits, min_split, BLOCK_N)
    if num_keys <= per_split:
        return
    split = tl.arange(0, MAX_SPLITS)
    used = split * per_split < num_keys
    lane = tl.arange(0, D_PAD)
    part = (row * H + head) * splits + split
    lse = tl.load(lse_ptr + part, mask=used, other=float("-inf"))  # [splits]
    weights = tl.exp2(lse - tl.max(lse, axis=0))
    mask = used[:, None] & (lane < D)[None, :]
    parts = tl.load(partial_ptr + part[:, None] * D + lane[None, :], mask=mask, other=0.0)  # [splits, D]
    merged = tl.sum(parts * weights[:, None], axis=0) / tl.sum(weights, axis=0)
    tl.store(output_ptr + (row * H + head) * D + lane, merged.to(output_ptr.dtype.element_ty), mask=lane < D)
