"""Paged cache writes in Triton: one program per token."""

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import wait_for_predecessor


@triton.jit
def _reshape_and_cache_kernel(
    key_ptr,
    value_ptr,
    key_cache_ptr,
    value_cache_ptr,
    slot_ptr,
    key_stride_token,
    key_stride_head,
    value_stride_token,
    value_stride_head,
    stride_block,
    stride_slot,
    stride_head,
    K: tl.constexpr,
    D: tl.constexpr,
    K_PAD: tl.constexpr,
    D_PAD: tl.constexpr,
    S: tl.constexpr,
    PDL: tl.constexpr,
):
    wait_for_predecessor(PDL)
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token)
    if slot >= 0:
        heads = tl.arange(0, K_PAD)[:, None]
        lane = tl.arange(0, D_PAD)[None, :]
        mask = (heads < K) & (lane < D)
        target = slot // S * stride_block + slot % S * stride_slot + heads * stride_head + lane
        key = tl.load(key_ptr + token * key_stride_token + heads * key_stride_head + lane, mask=mask)
        tl.store(key_cache_ptr + target, key.to(key_cache_ptr.dtype.element_ty), mask=mask)
        value = tl.load(value_ptr + token * value_stride_token + heads * value_stride_head + lane, mask=mask)
        tl.store(value_cache_ptr + target, value.to(value_cache_ptr.dtype.element_ty), mask=mask)


def reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
) -> None:
    tokens, num_kv_heads, head_size = key.shape
    if tokens == 0:
        return
    key = key if key.stride(-1) == 1 else key.contiguous()
    value = value if value.stride(-1) == 1 else value.contiguous()
    _reshape_and_cache_kernel[(tokens,)](
        key,
        value,
        key_cache,
        value_cache,
        slot_mapping,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        key_cache.stride(0),
        key_cache.stride(1),
        key_cache.stride(2),
        K=num_kv_heads,
        D=head_size,
        K_PAD=triton.next_power_of_2(num_kv_heads),
        D_PAD=triton.next_power_of_2(head_size),
        S=key_cache.shape[1],
        num_warps=4,
        **pdl.options(key.device),
    )
