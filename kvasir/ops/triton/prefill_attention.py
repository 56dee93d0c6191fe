"""Prefill and chunks: tiles of query tokens x the query heads of one KV head, over the row's keys in the cache.

A program finds its row by halving over `query_start_loc` (row r's first tile is at most start // BLOCK_Q + r). Key
tiles that every query of the tile sees run without masks; the diagonal, and any tile that a window cuts, with them.
"""

import triton
import triton.language as tl

from kvasir.ops.triton.decode_attention import _DOT, scaled_scores
from kvasir.ops.triton.pdl import wait_for_predecessor


@triton.jit
def find_row(tile, starts_ptr, first_row, num_rows, BLOCK_Q: tl.constexpr):
    """(row, tile within the row); row may be first_row + num_rows: the padding after the last row."""
    base = tl.load(starts_ptr + first_row)
    low = 0
    high = num_rows
    while low < high:
        middle = (low + high + 1) // 2
        first_tile = (tl.load(starts_ptr + first_row + middle) - base) // BLOCK_Q + middle
        if first_tile <= tile:
            low = middle
        else:
            high = middle - 1
    first_tile = (tl.load(starts_ptr + first_row + low) - base) // BLOCK_Q + low
    return first_row + low, tile - first_tile


@triton.jit
def _attend_tile(
    q,
    top,
    total,
    acc,
    positions,
    first,
    end,
    key_ptr,
    value_ptr,
    table,
    head_offset,
    score_scale,
    cap,
    window,
    stride_block,
    stride_slot,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    S: tl.constexpr,
    BLOCK_N: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_CAP: tl.constexpr,
    MASKED: tl.constexpr,
):
    """One key tile into the running softmax."""
    keys = first + tl.arange(0, BLOCK_N)
    lane = tl.arange(0, D_PAD)
    if MASKED:
        block = tl.load(table + keys // S, mask=keys < end, other=0).to(tl.int64)
    else:
        block = tl.load(table + keys // S).to(tl.int64)
    offset = block * stride_block + (keys % S) * stride_slot + head_offset  # [C]
    k_pointers = key_ptr + offset[None, :] + lane[:, None]
    v_pointers = value_ptr + offset[:, None] + lane[None, :]
    if MASKED:
        k = tl.load(k_pointers, mask=(keys < end)[None, :] & (lane < D)[:, None], other=0.0)  # [D, C]
        v = tl.load(v_pointers, mask=(keys < end)[:, None] & (lane < D)[None, :], other=0.0)  # [C, D]
    elif D < D_PAD:
        k = tl.load(k_pointers, mask=(lane < D)[:, None], other=0.0)
        v = tl.load(v_pointers, mask=(lane < D)[None, :], other=0.0)
    else:
        k = tl.load(k_pointers)
        v = tl.load(v_pointers)
    scores = scaled_scores(q, k, score_scale, cap, HAS_CAP)  # [M, C]
    if MASKED:
        seen = (keys[None, :] <= positions[:, None]) & (keys < end)[None, :]
        if HAS_WINDOW:
            seen = seen & (keys[None, :] > positions[:, None] - window)
        scores = tl.where(seen, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, axis=1))
    shrink = tl.exp2(top - new_top)
    weights = tl.exp2(scores - new_top[:, None])
    total = total * shrink + tl.sum(weights, axis=1)
    acc = acc * shrink[:, None]
    acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=_DOT)
    return new_top, total, acc


@triton.jit(do_not_specialize=["stride_table", "first_row", "num_rows", "num_tokens", "window"])
def prefill_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    starts_ptr,
    seq_lens_ptr,
    table_ptr,
    table_rows_ptr,
    output_ptr,
    stride_table,
    first_row,
    num_rows,
    num_tokens,
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
    BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MIXED: tl.constexpr,
    PDL: tl.constexpr,
):
    """MIXED: rows with one token are left to the decode kernel."""
    wait_for_predecessor(PDL)
    kv_head = tl.program_id(1)
    tile = tl.num_programs(0) - 1 - tl.program_id(0)  # late tiles see the most keys: they start first
    row, tile = find_row(tile, starts_ptr, first_row, num_rows, BLOCK_Q)
    is_padding = row == first_row + num_rows
    row_start = tl.load(starts_ptr + row)
    query_len = num_tokens - row_start
    if not is_padding:
        query_len = tl.load(starts_ptr + row + 1) - row_start
    first_token = tile * BLOCK_Q
    if first_token >= query_len:
        return
    if MIXED:
        if (query_len == 1) & (row < first_row + num_rows):
            return

    packed = tl.arange(0, BLOCK_M)
    lane = tl.arange(0, D_PAD)
    tokens = first_token + packed // G  # within the row
    heads = kv_head * G + packed % G
    present = ((tokens < query_len) & (packed < BLOCK_Q * G))[:, None] & (lane < D)[None, :]
    flat = row_start.to(tl.int64) + tokens
    target = output_ptr + (flat * H + heads)[:, None] * D + lane[None, :]
    if is_padding:
        tl.store(target, tl.zeros([BLOCK_M, D_PAD], output_ptr.dtype.element_ty), mask=present)
        return

    query = query_ptr + (flat * stride_query_token + heads * stride_query_head)[:, None] + lane[None, :]
    q = tl.load(query, mask=present, other=0.0)  # [M, D]
    context = tl.load(seq_lens_ptr + row) - query_len
    positions = context + tokens  # [M]
    oldest = context + first_token
    end = tl.minimum(oldest + BLOCK_Q, context + query_len)
    # Key tiles: [begin, whole) are cut by the window's old edge, [whole, diagonal) are seen by every query of the
    # tile and need no mask, [diagonal, end) are cut by causality.
    begin = 0
    whole = 0
    if HAS_WINDOW:
        begin = tl.maximum(oldest - window + 1, 0) // BLOCK_N * BLOCK_N
        whole = tl.cdiv(tl.maximum(end - window, 0), BLOCK_N) * BLOCK_N
    diagonal = tl.maximum((oldest + 1) // BLOCK_N * BLOCK_N, whole)
    num_old = tl.cdiv(tl.minimum(whole, end) - begin, BLOCK_N)
    num_masked = num_old + tl.maximum(tl.cdiv(end - diagonal, BLOCK_N), 0)
    top = tl.full([BLOCK_M], -1e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
    table = table_ptr + tl.load(table_rows_ptr + row).to(tl.int64) * stride_table
    head_offset = kv_head * stride_head
    for first in range(whole, diagonal, BLOCK_N):
        top, total, acc = _attend_tile(
            q, top, total, acc, positions, first, end, key_ptr, value_ptr, table, head_offset,
            score_scale, cap, window, stride_block, stride_slot,
            D, D_PAD, S, BLOCK_N, HAS_WINDOW, HAS_CAP, False,
        )  # fmt: skip
    for index in range(0, num_masked):
        first = diagonal + (index - num_old) * BLOCK_N
        if HAS_WINDOW:
            first = tl.where(index < num_old, begin + index * BLOCK_N, first)
        top, total, acc = _attend_tile(
            q, top, total, acc, positions, first, end, key_ptr, value_ptr, table, head_offset,
            score_scale, cap, window, stride_block, stride_slot,
            D, D_PAD, S, BLOCK_N, HAS_WINDOW, HAS_CAP, True,
        )  # fmt: skip
    acc = acc / tl.where(total > 0.0, total, 1.0)[:, None]
    tl.store(target, acc.to(output_ptr.dtype.element_ty), mask=present)
