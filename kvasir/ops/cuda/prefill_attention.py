"""Attention of prompts on Hopper: the variants of `csrc/cuda/prefill_attention.cu`, and its launch."""

import ctypes
from collections.abc import Sequence
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
_KEYS, _KEY_STAGES, _VALUE_STAGES = 128, 3, 2
_LOG2E = 1.4426950408889634


@cache
def kernel_for(head_size: int, group: int, block_size: int, dtype: torch.dtype, capability: tuple[int, int]) -> Kernel:
    defines = {
        "HEAD_SIZE": head_size, "GROUP": group, "BLOCK_SIZE": block_size, "HALF": int(dtype == torch.float16)
    }  # fmt: skip
    tiles = 2 * ROWS + (_KEY_STAGES + _VALUE_STAGES) * _KEYS  # of the query and of the result, of keys and of values
    shared = 2 * head_size * tiles + 1024  # its parts begin at multiples of 1,024
    return Kernel("prefill_attention.cu", "prefill_attention", defines, _THREADS, shared, capability)


@cache
def _counters(device: torch.device) -> torch.Tensor:
    """[2] zeros, by which programs take their work; each launch leaves zeros behind."""
    return torch.zeros(2, dtype=torch.int32, device=device)


def tiles_of(query_lens: Sequence[int], group: int) -> int:
    """How many tiles of queries rows of such lengths have, for each KV head, which `group` heads share."""
    return sum(-(-length // (ROWS // group)) for length in query_lens)


def prefill_attention(
    query: torch.Tensor,  # [T, H, D], last dimension contiguous
    key_cache: torch.Tensor,  # [N, S, K, D], a view of [N, 2, K, S, D] as is value_cache
    value_cache: torch.Tensor,
    query_start_loc: torch.Tensor,  # [R + 1] int32, tokens of `query`
    seq_lens: torch.Tensor,  # [R] int32
    block_table: torch.Tensor,  # [M, max_blocks] int32
    table_rows: torch.Tensor,  # [R] int64
    num_tiles: int,  # `tiles_of` the R rows
    scale: float,
    output: torch.Tensor,  # [T, H, D] contiguous
) -> None:
    """Causal attention of R rows, which may begin anywhere in `query`.

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
    tokens, heads, _ = query.shape
    group, target = heads // kv_heads, target_of(query.device)
    query_map = TensorMap(
        query.data_ptr(), query.dtype, (head_size, heads, tokens), (query.stride(1) * size, query.stride(0) * size),
        (64, group, ROWS // group),
    )  # fmt: skip
    cache_map = TensorMap(
        key_cache.data_ptr(), key_cache.dtype, (head_size, 2 * kv_heads * block_size, blocks),
        (head_size * size, key_cache.stride(0) * size), (64, block_size, 1),
    )  # fmt: skip
    works = num_tiles * kv_heads
    kernel = kernel_for(head_size, group, block_size, query.dtype, target.capability)
    kernel.launch(
        (min(works, target.processors), 1), 1, pdl.enabled(query.device), query_map, cache_map,
        *map(pointer, (query_start_loc, seq_lens, block_table, table_rows, output, _counters(query.device))),
        ctypes.c_longlong(block_table.stride(0)), *map(ctypes.c_int, (seq_lens.shape[0], kv_heads, works, blocks)),
        ctypes.c_float(scale * _LOG2E),
    )  # fmt: skip
