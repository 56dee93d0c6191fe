"""Keys and values of one sequence, copied out of the paged cache; and two partial attentions put together."""

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import wait_for_predecessor

_TOKENS = 32  # of a program


@triton.jit(do_not_specialize=["first", "length", "padded", "row"])
def _gather_kernel(
    key_cache_ptr, value_cache_ptr, table_ptr, table_rows_ptr, output_ptr,
    row, first, length, padded, stride_table, stride_block, stride_slot, stride_head,
    D: tl.constexpr, D_PAD: tl.constexpr, S: tl.constexpr, TOKENS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_predecessor(PDL)
    head = tl.program_id(1)
    heads = tl.num_programs(1)
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    lane = tl.arange(0, D_PAD)[None, :]
    position = first + token
    there = token < length
    table = table_ptr + tl.load(table_rows_ptr + row) * stride_table
    block = tl.load(table + position // S, mask=there, other=0).to(tl.int64)
    source = (block * stride_block + position % S * stride_slot + head * stride_head)[:, None] + lane
    target = output_ptr + (head.to(tl.int64) * padded + token)[:, None] * D + lane
    inside = (token < padded)[:, None] & (lane < D)
    key = tl.load(key_cache_ptr + source, mask=there[:, None] & inside, other=0.0)
    tl.store(target, key, mask=inside)
    value = tl.load(value_cache_ptr + source, mask=there[:, None] & inside, other=0.0)
    tl.store(target + heads.to(tl.int64) * padded * D, value, mask=inside)


def gather_kv(
    key_cache: torch.Tensor,  # [N, S, K, D], any strides, last dimension contiguous
    value_cache: torch.Tensor,  # [N, S, K, D], strides of key_cache
    block_table: torch.Tensor,  # [M, max_blocks] int32
    table_rows: torch.Tensor,  # [R] int64
    row: int,
    first: int,
    length: int,
    padded: int,
) -> torch.Tensor:  # [2, K, padded, D]
    """Positions [first, first + length) of a row, then zeros up to `padded`: keys, then values."""
    _, block_size, heads, head_size = key_cache.shape
    output = torch.empty(2, heads, padded, head_size, dtype=key_cache.dtype, device=key_cache.device)
    _gather_kernel[(triton.cdiv(padded, _TOKENS), heads)](
        key_cache, value_cache, block_table, table_rows, output,
        row, first, length, padded, block_table.stride(0), *key_cache.stride()[:3],
        D=head_size, D_PAD=triton.next_power_of_2(head_size), S=block_size, TOKENS=_TOKENS, num_warps=4,
        **pdl.options(key_cache.device),
    )  # fmt: skip
    return output


@triton.jit(do_not_specialize=["first_offset", "second_offset"])
def _merge_kernel(
    first_ptr, first_lse_ptr, first_offset, first_stride_head, second_ptr, second_lse_ptr, second_offset,
    second_stride_head, output_ptr,
    H: tl.constexpr, D: tl.constexpr, H_PAD: tl.constexpr, D_PAD: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_predecessor(PDL)
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, H_PAD)
    lane = tl.arange(0, D_PAD)[None, :]
    inside = (head < H)[:, None] & (lane < D)
    a, b = token + first_offset, token + second_offset
    first_lse = tl.load(first_lse_ptr + head * first_stride_head + a, mask=head < H, other=0.0)
    second_lse = tl.load(second_lse_ptr + head * second_stride_head + b, mask=head < H, other=0.0)
    weight = (1.0 / (1.0 + tl.exp(second_lse - first_lse)))[:, None]
    first = tl.load(first_ptr + (a * H + head)[:, None] * D + lane, mask=inside).to(tl.float32)
    second = tl.load(second_ptr + (b * H + head)[:, None] * D + lane, mask=inside).to(tl.float32)
    merged = second + (first - second) * weight
    tl.store(output_ptr + (token * H + head)[:, None] * D + lane, merged.to(output_ptr.dtype.element_ty), mask=inside)


def merge_attention(
    first: torch.Tensor,  # [T1, H, D] contiguous
    first_lse: torch.Tensor,  # [H, T1] float32, tokens contiguous
    first_offset: int,
    second: torch.Tensor,  # [T2, H, D] contiguous
    second_lse: torch.Tensor,  # [H, T2] float32, tokens contiguous
    second_offset: int,
    output: torch.Tensor,  # [T, H, D] contiguous
) -> None:
    """output[t]: attention over two sets of keys, from the attention over each and its natural log-sum-exp."""
    tokens, heads, head_size = output.shape
    _merge_kernel[(tokens,)](
        first, first_lse, first_offset, first_lse.stride(0), second, second_lse, second_offset, second_lse.stride(0),
        output,
        H=heads, D=head_size, H_PAD=triton.next_power_of_2(heads), D_PAD=triton.next_power_of_2(head_size),
        num_warps=4, **pdl.options(output.device),
    )  # fmt: skip
