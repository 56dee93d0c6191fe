"""Decode: one query token per row, its sequence cut into splits that run side by side, then put together.

How a row is cut follows from its length and two numbers of the launch (`split_length`). A row that needs one split writes
its output directly. Else each split leaves a partial result, and the one that finishes last puts them together, always
in the order of the splits, so that a repeated run gives the same bits. Rows of length 0 (padding) write zeros.

Lengths and tables are inputs of the step, so they are read beside the kernel before (`pdl.py`): programs without keys are
gone when it ends, and the others have asked for their first keys.

Where all rows begin with the same blocks, a kernel before it reads those once for all rows and leaves partial results too.
"""

import triton
import triton.language as tl

from kvasir.ops.triton.pdl import prefetch, wait_for_predecessor

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


@triton.jit
def _merge_splits(
    partial_ptr, lse_ptr, first_part, stride_part, used, splits, shared_used,
    G: tl.constexpr, G_PAD: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """[G_PAD, D_PAD]: the partial results of `used` splits and of `shared_used` ones of the shared prefix, weighted.

    Read past the L1 cache, since others wrote them.
    """
    head = tl.arange(0, G_PAD)
    lane = tl.arange(0, D_PAD)
    top = tl.full([G_PAD], -1e30, tl.float32)
    total = tl.zeros([G_PAD], tl.float32)
    acc = tl.zeros([G_PAD, D_PAD], tl.float32)
    for first in range(0, used + shared_used, CHUNK):
        index = first + tl.arange(0, CHUNK)
        split = tl.where(index < used, index, splits + index - used)
        part = first_part + head[None, :] * stride_part + split[:, None]  # [CHUNK, G_PAD]
        there = (index < used + shared_used)[:, None] & (head < G)[None, :]
        lse = tl.load(lse_ptr + part, mask=there, other=float("-inf"), cache_modifier=".cg")
        inside = there[:, :, None] & (lane < D)[None, None, :]
        source = partial_ptr + part[:, :, None] * D + lane[None, None, :]
        parts = tl.load(source, mask=inside, other=0.0, cache_modifier=".cg")
        new_top = tl.maximum(top, tl.max(lse, axis=0))
        shrink = tl.exp2(top - new_top)
        weights = tl.exp2(lse - new_top[None, :])
        total = total * shrink + tl.sum(weights, axis=0)
        acc = acc * shrink[:, None] + tl.sum(parts * weights[:, :, None], axis=0)
        top = new_top
    return acc / tl.where(total > 0.0, total, 1.0)[:, None]


@triton.jit
def shared_split_length(shared_len, splits, BLOCK_N: tl.constexpr):
    return tl.maximum(tl.cdiv(tl.cdiv(shared_len, splits), BLOCK_N), 1) * BLOCK_N


@triton.jit(do_not_specialize=["stride_table", "splits", "shared_splits", "num_rows"])
def shared_prefix_kernel(
    query_ptr, key_ptr, value_ptr, table_ptr, table_rows_ptr, shared_len_ptr, partial_ptr, lse_ptr,
    stride_table, splits, shared_splits, num_rows, score_scale, cap,
    stride_query_token, stride_query_head, stride_block, stride_slot, stride_head,
    G: tl.constexpr, D: tl.constexpr, D_PAD: tl.constexpr, S: tl.constexpr, HAS_CAP: tl.constexpr, H: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Keys that all rows have in common, read once for all of them: partial results for `decode_kernel` to merge.

    A tile is BLOCK_M (row, query head) pairs of one KV head; `shared_splits` programs share the keys.
    """
    wait_for_predecessor(PDL)
    kv_head = tl.program_id(0)
    split = tl.program_id(2)
    shared_len = tl.load(shared_len_ptr)
    per_split = shared_split_length(shared_len, shared_splits, BLOCK_N)
    begin = split * per_split
    end = tl.minimum(begin + per_split, shared_len)
    if begin >= end:
        return
    packed = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    row = (packed // G).to(tl.int64)
    heads = kv_head * G + packed % G
    lane = tl.arange(0, D_PAD)
    present = (row < num_rows)[:, None] & (lane < D)[None, :]
    query = query_ptr + (row * stride_query_token + heads * stride_query_head)[:, None] + lane[None, :]
    q = tl.load(query, mask=present, other=0.0)  # [M, D]
    top = tl.full([BLOCK_M], -1e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
    table = table_ptr + tl.load(table_rows_ptr).to(tl.int64) * stride_table
    for first in range(begin, end, BLOCK_N):
        keys = first + tl.arange(0, BLOCK_N)
        valid = keys < end
        block = tl.load(table + keys // S, mask=valid, other=0).to(tl.int64)
        offset = block * stride_block + (keys % S) * stride_slot + kv_head * stride_head  # [C]
        k_mask = valid[None, :] & (lane < D)[:, None]
        k = tl.load(key_ptr + offset[None, :] + lane[:, None], mask=k_mask, other=0.0)  # [D, C]
        scores = tl.where(valid[None, :], scaled_scores(q, k, score_scale, cap, HAS_CAP), float("-inf"))  # [M, C]
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        shrink = tl.exp2(top - new_top)
        weights = tl.exp2(scores - new_top[:, None])
        total = total * shrink + tl.sum(weights, axis=1)
        v_mask = valid[:, None] & (lane < D)[None, :]
        v = tl.load(value_ptr + offset[:, None] + lane[None, :], mask=v_mask, other=0.0)  # [C, D]
        acc = acc * shrink[:, None]
        acc = tl.dot(weights.to(v.dtype), v, acc, input_precision=_DOT)
        top = new_top
    part = (row * H + heads) * (splits + shared_splits) + splits + split
    tl.store(partial_ptr + part[:, None] * D + lane[None, :], acc / total[:, None], mask=present)
    tl.store(lse_ptr + part, top + tl.log2(total), mask=row < num_rows)


@triton.jit
def _prefetch_tile(
    key_ptr, value_ptr, table, begin, end, head, stride_block, stride_slot,
    S: tl.constexpr, BLOCK_N: tl.constexpr, KEY_BYTES: tl.constexpr,
):  # fmt: skip
    """Asks for the keys and values of a split's first tile, all of which are old but for a row's last token."""
    keys = tl.minimum(begin + tl.arange(0, BLOCK_N), end - 1)
    offset = tl.load(table + keys // S).to(tl.int64) * stride_block + (keys % S) * stride_slot + head
    prefetch(key_ptr + offset, KEY_BYTES)
    prefetch(value_ptr + offset, KEY_BYTES)


@triton.jit(do_not_specialize=["stride_table", "splits", "min_split", "shared_splits", "window"])
def decode_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    starts_ptr,
    seq_lens_ptr,
    table_ptr,
    table_rows_ptr,
    output_ptr,
    partial_ptr,
    lse_ptr,
    arrived_ptr,
    shared_len_ptr,
    stride_table,
    splits,
    min_split,
    shared_splits,
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
    G_PAD: tl.constexpr,
    MERGE: tl.constexpr,
    MIXED: tl.constexpr,
    SHARED: tl.constexpr,
    SHARED_N: tl.constexpr,
    AHEAD: tl.constexpr,
    PDL: tl.constexpr,
):
    """MIXED: rows with other than one token are left to the prefill kernel; else row r's query is token r.

    SHARED: `shared_prefix_kernel` has done the first keys of all rows, in tiles of SHARED_N.
    """
    if MIXED:  # perhaps no row is a decode: then nobody would wait below
        wait_for_predecessor(PDL)
    kv_head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    token = row
    if MIXED:
        token = tl.load(starts_ptr + row).to(tl.int64)
        if tl.load(starts_ptr + row + 1) - token != 1:
            return
    seq_len = tl.load(seq_lens_ptr + row)
    start = first_key(seq_len, window, HAS_WINDOW)
    parts = splits
    shared_used = 0
    if SHARED:
        parts = splits + shared_splits
        start = tl.minimum(tl.load(shared_len_ptr), seq_len)  # padding has no keys and shares none
        shared_used = tl.cdiv(start, shared_split_length(tl.load(shared_len_ptr), shared_splits, SHARED_N))
    per_split = split_length(seq_len - start, splits, min_split, BLOCK_N)
    begin = start + split * per_split
    end = tl.minimum(begin + per_split, seq_len)
    if (begin >= end) & (split > 0):
        return
    table = table_ptr + tl.load(table_rows_ptr + row).to(tl.int64) * stride_table
    if PDL and not MIXED:
        key_bytes: tl.constexpr = D * key_ptr.dtype.element_ty.primitive_bitwidth // 8
        if AHEAD and key_bytes % 16 == 0 and end > begin:
            _prefetch_tile(
                key_ptr, value_ptr, table, begin, end, kv_head * stride_head, stride_block, stride_slot,
                S, BLOCK_N, key_bytes,
            )  # fmt: skip
        wait_for_predecessor(PDL)

    packed = tl.arange(0, BLOCK_M)
    lane = tl.arange(0, D_PAD)
    heads = kv_head * G + packed
    present = (packed < G)[:, None] & (lane < D)[None, :]
    query = query_ptr + token * stride_query_token + heads[:, None] * stride_query_head + lane[None, :]
    q = tl.load(query, mask=present, other=0.0)  # [G, D]

    top = tl.full([BLOCK_M], -1e30, tl.float32)  # running maximum; finite, so that -inf - top is -inf
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, D_PAD], tl.float32)
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
    if (seq_len - start <= per_split) & (shared_used == 0):
        target = output_ptr + (token * H + heads)[:, None] * D + lane[None, :]
        tl.store(target, acc.to(output_ptr.dtype.element_ty), mask=present)
        return
    first_part = (row * H + kv_head * G) * parts
    part = first_part + packed * parts + split
    tl.store(partial_ptr + part[:, None] * D + lane[None, :], acc, mask=present)
    tl.store(lse_ptr + part, top + tl.log2(total), mask=packed < G)
    used = tl.maximum(tl.cdiv(seq_len - start, per_split), 1)  # split 0 is counted even if all its keys are shared
    tl.debug_barrier()  # every thread's part is written before any is announced
    ticket = arrived_ptr + row * (H // G) + kv_head
    if tl.atomic_add(ticket, 1, sem="acq_rel", scope="gpu") == used - 1:
        tl.store(ticket, 0)  # for the next launch
        merged = _merge_splits(
            partial_ptr, lse_ptr, first_part, parts, used, splits, shared_used, G, G_PAD, D, D_PAD, MERGE
        )
        head = tl.arange(0, G_PAD)
        target = output_ptr + (token * H + kv_head * G + head)[:, None] * D + lane[None, :]
        inside = (head < G)[:, None] & (lane < D)[None, :]
        tl.store(target, merged.to(output_ptr.dtype.element_ty), mask=inside)
