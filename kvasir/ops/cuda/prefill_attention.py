"""Attention of prompts on Hopper: the variants of `csrc/cuda/prefill_attention.cu`, and its launch."""

import ctypes
from functools import cache

import torch

from kvasir.ops.cuda.kernel import Kernel, pointer
from kvasir.ops.cuda.tensor_map import TensorMap
from kvasir.ops.target import target_of
from kvasir.ops.triton import pdl

HEAD_SIZES = (64, 128)
BLOCK_SIZES = (16, 32, 64, 128)
ROWS = 128
"""Packed rows of a program: query tokens times the heads that share a KV head."""
_THREADS = 384
_KEYS, _STAGES = 128, 2
_LOG2E = 1.4426950408889634


@cache
def kernel_for(head_size: int, group: int, block_size: int, dtype: torch.dtype, capability: tuple[int, int]) -> Kernel:
    defines = {
        "HEAD_SIZE": head_size, "GROUP": group, "BLOCK_SIZE": block_size, "HALF": int(dtype == torch.float16)
    }  # fmt: skip
    shared = 2 * head_size * (ROWS + 2 * _STAGES * _KEYS) + 1024  # its parts begin at multiples of 1,024
    return Kernel("prefill_attention.cu", "prefill_attention", defines, _THREADS, shared, capability)


def prefill_attention(
    query: torch.Tensor,  # [T, H, D], last dimension contiguous
    key_cache: torch.Tensor,  # [N, S, K, D], a view of [N, 2, K, S, D] as is value_cache
    value_cache: torch.Tensor,
    query_start_loc: torch.Tensor,  # [R + 1] int32, tokens of `query`
    seq_lens: torch.Tensor,  # [R] int32
    block_table: torch.Tensor,  # [M, max_blocks] int32
    table_rows: torch.Tensor,  # [R] int64
    num_tokens: int,
    scale: float,
    output: torch.Tensor,  # [T, H, D] contiguous
) -> None:
    """Causal attention of R rows with `num_tokens` tokens in all, which may begin anywhere in `query`.

    Raises:
        ValueError: the cache does not lie as above.
    """
    blocks, block_size, kv_heads, head_size = key_cache.shape
    size = key_cache.element_size()
    if (
        key_cache.stride()[1:] != (head_size, block_size * head_size, 1)
        or value_cache.stride() != key_cache.stride()
        or value_cache.storage_offset() - key_cache.storage_offset() != kv_heads * block_size * head_size
    ):
        raise ValueError("keys and values of a block must be one piece of memory, [2, KV heads, block size, head size]")
    rows, group = seq_lens.shape[0], query.shape[1] // kv_heads
    tokens_of_program = ROWS // group
    cache_map = TensorMap(
        key_cache.data_ptr(), key_cache.dtype, (head_size, 2 * kv_heads * block_size, blocks),
        (head_size * size, key_cache.stride(0) * size), (64, block_size, 1),
    )  # fmt: skip
    kernel = kernel_for(head_size, group, block_size, query.dtype, target_of(query.device).capability)
    kernel.launch(
        ((num_tokens // tokens_of_program + rows) * kv_heads, 1), 1, pdl.enabled(query.device),
        cache_map, *map(pointer, (query, query_start_loc, seq_lens, block_table, table_rows, output)),
        *map(ctypes.c_longlong, (block_table.stride(0), query.stride(0), query.stride(1))),
        *map(ctypes.c_int, (rows, kv_heads, blocks)), ctypes.c_float(scale * _LOG2E),
    )  # fmt: skip
