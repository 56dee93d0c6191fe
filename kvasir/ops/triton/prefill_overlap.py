"""Prefill on Hopper, where the softmax of the next key tile runs beside the product of the present one with its values.

The tensor cores and the units that do the softmax are different ones, but plain Triton uses them by turns: scores, softmax,
values, and again. Gluon, Triton's lower layer, leaves the order to us. Step i of the loop

    asks the tensor cores for the scores of tile i + 1, then for the product of tile i's weights with its values,
    asks memory for the keys of tile i + 2 and the values of tile i + 1, and for the block ids of a tile later,
    waits for the scores alone and makes the weights of tile i + 1 of them, while the product runs,
    waits for the product.

Keys and values have two buffers each, so that all threads need to meet but once a step: then what arrived is seen by all,
and what is overwritten has been read by all. A program has 64 packed rows and four warps; two programs fit a processor.

What a program does and how it finds its row is as in `prefill_attention.py`, which serves wherever this does not: under
another Triton too, since Gluon is experimental and its names change between versions.
"""

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import async_copy
from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, warpgroup_mma, warpgroup_mma_wait

from kvasir.ops.triton.pdl import wait_for_predecessor
from kvasir.ops.triton.prefill_attention import find_row

if not triton.__version__.startswith("3.6."):
    raise ImportError(f"this kernel is written for Gluon of Triton 3.6, not {triton.__version__}")

BLOCK_M = 64
"""Packed rows of a program: what one instruction of a group of four warps takes."""
BLOCK_N = 64
NUM_WARPS = 4
ARGUMENTS = (
    "score_scale",
    "stride_query_token",
    "stride_query_head",
    "stride_block",
    "stride_slot",
    "stride_head",
    "G",
    "D",
    "S",
)
"""What it takes of the arguments that all kernels of paged attention have in common."""


@gluon.jit
def _block_ids(table, index, last_block, S: gl.constexpr, BLOCK_N: gl.constexpr, KEYS: gl.constexpr):
    """[BLOCK_N]: the block of each key of a tile; of keys past the row's end the row's last one, which may be read."""
    block = index * (BLOCK_N // S) + gl.arange(0, BLOCK_N, layout=KEYS) // S
    return gl.load(table + gl.minimum(block, last_block))


@gluon.jit
def _ask_for(buffer, slots, ids, index, end, stride_block, BLOCK_N: gl.constexpr, KEYS: gl.constexpr):
    """Begins to copy a tile [BLOCK_N, D] to `buffer`; keys past the end become zeros. `slots`: pointers in block 0."""
    keys = index * BLOCK_N + gl.arange(0, BLOCK_N, layout=KEYS)
    pointers = slots + gl.expand_dims(ids.to(gl.int64) * stride_block, 1)
    async_copy.async_copy_global_to_shared(buffer, pointers, mask=gl.expand_dims(keys < end, 1))


@gluon.jit
def _barrier_for_tensor_cores():
    """What the copies have brought is there for all threads, and for the tensor cores, which read it past the threads."""
    fence_async_shared()
    gl.thread_barrier()


@gluon.jit
def _softmax(scores, top, total, index, positions, score_scale, BLOCK_N: gl.constexpr, MASKED: gl.constexpr):
    """Scores [M, BLOCK_N] of tile `index` -> weights, new top and total, and the factor for what was summed before.

    The scale is applied inside exp2, in one instruction with the difference.
    """
    if MASKED:
        keys = index * BLOCK_N + gl.arange(0, BLOCK_N, layout=gl.SliceLayout(0, scores.type.layout))
        seen = gl.expand_dims(keys, 0) <= gl.expand_dims(positions, 1)
        scores = gl.where(seen, scores, float("-inf"))
    new_top = gl.maximum(top, gl.max(scores, axis=1) * score_scale)
    shrink = gl.exp2(top - new_top)
    weights = gl.exp2(scores * score_scale - gl.expand_dims(new_top, 1))
    return weights, new_top, total * shrink + gl.sum(weights, axis=1), shrink


@gluon.jit
def _step(
    index, weights, acc, top, total, ids_k, ids_v, q, k_ring, v_ring, k_slots, v_slots, table, last_block, end, positions,
    score_scale, stride_block, S: gl.constexpr, BLOCK_M: gl.constexpr, BLOCK_N: gl.constexpr, KEYS: gl.constexpr,
    SCORES: gl.constexpr, ACC: gl.constexpr, MASKED: gl.constexpr,
):  # fmt: skip
    """Scores and weights of tile index + 1, beside the product of tile `index`, whose `weights` are there."""
    async_copy.wait_group(0)  # keys of index + 1, values of index
    _barrier_for_tensor_cores()
    k = k_ring.index((index + 1) % 2).permute((1, 0))  # [D, BLOCK_N]
    zeros = gl.zeros([BLOCK_M, BLOCK_N], gl.float32, layout=SCORES)
    next_scores = warpgroup_mma(q, k, zeros, use_acc=False, is_async=True)
    product = warpgroup_mma(weights, v_ring.index(index % 2), acc, is_async=True)
    # Into the buffers of the keys of index and of the values of index - 1: the step before has waited for both products.
    _ask_for(k_ring.index(index % 2), k_slots, ids_k, index + 2, end, stride_block, BLOCK_N, KEYS)
    _ask_for(v_ring.index((index + 1) % 2), v_slots, ids_v, index + 1, end, stride_block, BLOCK_N, KEYS)
    async_copy.commit_group()
    ids_v = ids_k
    ids_k = _block_ids(table, index + 3, last_block, S, BLOCK_N, KEYS)
    scores = warpgroup_mma_wait(1, deps=[next_scores])
    next_weights, top, total, shrink = _softmax(scores, top, total, index + 1, positions, score_scale, BLOCK_N, MASKED)
    acc = warpgroup_mma_wait(0, deps=[product])
    acc = acc * gl.expand_dims(gl.convert_layout(shrink, gl.SliceLayout(1, ACC)), 1)
    weights = gl.convert_layout(next_weights.to(weights.dtype), weights.type.layout)
    return weights, acc, top, total, ids_k, ids_v


@gluon.jit(do_not_specialize=["stride_table", "first_row", "num_rows", "num_tokens"])
def prefill_overlap_kernel(
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
    stride_query_token,
    stride_query_head,
    stride_block,
    stride_slot,
    stride_head,
    G: gl.constexpr,
    D: gl.constexpr,
    S: gl.constexpr,
    H: gl.constexpr,
    BLOCK_Q: gl.constexpr,
    BLOCK_M: gl.constexpr,
    BLOCK_N: gl.constexpr,
    MIXED: gl.constexpr,
    PDL: gl.constexpr,
):
    """Program p: KV head p % K of tile p // K, from the end. `score_scale` is positive.

    MIXED: rows with one token are left to the decode kernel.
    """
    K: gl.constexpr = H // G
    WARPS: gl.constexpr = gl.num_warps()
    dtype: gl.constexpr = query_ptr.dtype.element_ty
    # A thread copies 16 bytes, D / 8 threads a key. The tensor cores give scores and sums in layouts of their own.
    LANES: gl.constexpr = D // 8
    COPY: gl.constexpr = gl.BlockedLayout([1, 8], [32 // LANES, LANES], [WARPS, 1], [1, 0])
    KEYS: gl.constexpr = gl.SliceLayout(1, COPY)
    SCORES: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, BLOCK_N, 16])
    ACC: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [WARPS, 1], [16, D, 16])
    WEIGHTS: gl.constexpr = gl.DotOperandLayout(0, ACC, 2)
    SHARED: gl.constexpr = gl.NVMMASharedLayout(128, 16, 2)

    # The heads of a tile are neighbours, since they read the same blocks. Late tiles see the most keys: they start first.
    kv_head = gl.program_id(0) % K
    tile = (gl.num_programs(0) - 1 - gl.program_id(0)) // K
    # The starts are an input of the step, written long before the kernel before this one: they are read beside it.
    row, tile = find_row(tile, starts_ptr, first_row, num_rows, BLOCK_Q)
    row_start = gl.load(starts_ptr + row)
    is_padding = row == first_row + num_rows
    query_len = num_tokens - row_start
    seq_len = 0
    if not is_padding:
        query_len = gl.load(starts_ptr + row + 1) - row_start
        seq_len = gl.load(seq_lens_ptr + row)
    wait_for_predecessor(PDL)
    first_token = tile * BLOCK_Q
    if first_token >= query_len:
        return
    if MIXED:
        if (query_len == 1) & (not is_padding):
            return

    packed = gl.arange(0, BLOCK_M, layout=KEYS)
    lane = gl.expand_dims(gl.arange(0, D, layout=gl.SliceLayout(0, COPY)), 0)
    tokens = first_token + packed // G  # within the row
    heads = kv_head * G + packed % G
    present = gl.expand_dims((tokens < query_len) & (packed < BLOCK_Q * G), 1)
    flat = row_start.to(gl.int64) + tokens
    target = output_ptr + gl.expand_dims((flat * H + heads) * D, 1) + lane
    oldest = seq_len - query_len + first_token
    end = gl.minimum(oldest + BLOCK_Q, seq_len)
    if end <= 0:  # padding
        gl.store(target, gl.zeros([BLOCK_M, D], dtype, layout=COPY), mask=present)
        return

    last = (end - 1) // BLOCK_N  # tile
    last_block = (end - 1) // S
    table = table_ptr + gl.load(table_rows_ptr + row).to(gl.int64) * stride_table
    slots = gl.expand_dims(gl.arange(0, BLOCK_N, layout=KEYS) % S * stride_slot, 1) + lane
    k_slots = key_ptr + kv_head * stride_head + slots  # [BLOCK_N, D]
    v_slots = value_ptr + kv_head * stride_head + slots
    q = gl.allocate_shared_memory(dtype, [BLOCK_M, D], SHARED)
    k_ring = gl.allocate_shared_memory(dtype, [2, BLOCK_N, D], SHARED)
    v_ring = gl.allocate_shared_memory(dtype, [2, BLOCK_N, D], SHARED)
    query = query_ptr + gl.expand_dims(flat * stride_query_token + heads * stride_query_head, 1) + lane
    async_copy.async_copy_global_to_shared(q, query, mask=present)
    ids_v = _block_ids(table, 0, last_block, S, BLOCK_N, KEYS)
    _ask_for(k_ring.index(0), k_slots, ids_v, 0, end, stride_block, BLOCK_N, KEYS)
    async_copy.commit_group()
    ids_k = _block_ids(table, 1, last_block, S, BLOCK_N, KEYS)
    _ask_for(k_ring.index(1), k_slots, ids_k, 1, end, stride_block, BLOCK_N, KEYS)
    _ask_for(v_ring.index(0), v_slots, ids_v, 0, end, stride_block, BLOCK_N, KEYS)
    async_copy.commit_group()
    ids_v = ids_k
    ids_k = _block_ids(table, 2, last_block, S, BLOCK_N, KEYS)

    positions = oldest + gl.arange(0, BLOCK_M, layout=gl.SliceLayout(1, SCORES)) // G  # [M]
    top = gl.full([BLOCK_M], -1e30, gl.float32, layout=gl.SliceLayout(1, SCORES))
    total = gl.full([BLOCK_M], 0.0, gl.float32, layout=gl.SliceLayout(1, SCORES))
    acc = gl.zeros([BLOCK_M, D], gl.float32, layout=ACC)
    async_copy.wait_group(1)  # the query and the keys of tile 0
    _barrier_for_tensor_cores()
    zeros = gl.zeros([BLOCK_M, BLOCK_N], gl.float32, layout=SCORES)
    first_scores = warpgroup_mma(q, k_ring.index(0).permute((1, 0)), zeros, use_acc=False, is_async=True)
    scores = warpgroup_mma_wait(0, deps=[first_scores])
    first_weights, top, total, _ = _softmax(scores, top, total, 0, positions, score_scale, BLOCK_N, True)
    weights = gl.convert_layout(first_weights.to(dtype), WEIGHTS)
    # Tiles up to `whole` are seen by every query and need no mask, the later ones are cut by causality.
    whole = gl.maximum((oldest + 1) // BLOCK_N - 1, 0)
    for index in range(0, whole):
        weights, acc, top, total, ids_k, ids_v = _step(
            index, weights, acc, top, total, ids_k, ids_v, q, k_ring, v_ring, k_slots, v_slots, table, last_block, end,
            positions, score_scale, stride_block, S, BLOCK_M, BLOCK_N, KEYS, SCORES, ACC, False,
        )  # fmt: skip
    for index in range(whole, last):
        weights, acc, top, total, ids_k, ids_v = _step(
            index, weights, acc, top, total, ids_k, ids_v, q, k_ring, v_ring, k_slots, v_slots, table, last_block, end,
            positions, score_scale, stride_block, S, BLOCK_M, BLOCK_N, KEYS, SCORES, ACC, True,
        )  # fmt: skip
    async_copy.wait_group(0)
    _barrier_for_tensor_cores()
    product = warpgroup_mma(weights, v_ring.index(last % 2), acc, is_async=True)
    values = warpgroup_mma_wait(0, deps=[product])
    values = values / gl.expand_dims(gl.convert_layout(total, gl.SliceLayout(1, ACC)), 1)
    gl.store(target, gl.convert_layout(values.to(dtype), COPY), mask=present)
