"""Rotary position embedding in Triton: one launch for q and k."""

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import wait_for_predecessor

_HEADS = 8  # heads per program


@triton.jit
def _rope_kernel(
    positions_ptr,
    q_ptr,
    k_ptr,
    cos_sin_ptr,
    q_out_ptr,
    k_out_ptr,
    q_stride_token,
    q_stride_head,
    k_stride_token,
    k_stride_head,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    ROT: tl.constexpr,
    HALF_PAD: tl.constexpr,
    REST_PAD: tl.constexpr,
    HEADS: tl.constexpr,
    PDL: tl.constexpr,
):
    wait_for_predecessor(PDL)
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    q_parts: tl.constexpr = (H + HEADS - 1) // HEADS
    is_q = part < q_parts  # selects, not branches: the compiler keeps track of alignment through them only
    heads = tl.where(is_q, part, part - q_parts) * HEADS + tl.arange(0, HEADS)
    present = heads < tl.where(is_q, H, K)
    stride_token = tl.where(is_q, q_stride_token, k_stride_token)
    stride_head = tl.where(is_q, q_stride_head, k_stride_head)
    source = tl.where(is_q, q_ptr, k_ptr) + token * stride_token + heads * stride_head
    target = tl.where(is_q, q_out_ptr, k_out_ptr) + token * tl.where(is_q, H * D, K * D) + heads * D
    half: tl.constexpr = ROT // 2
    lane = tl.arange(0, HALF_PAD)
    table = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * ROT
    cos = tl.load(table + lane, mask=lane < half, other=0.0)[None, :]
    sin = tl.load(table + half + lane, mask=lane < half, other=0.0)[None, :]
    mask = present[:, None] & (lane < half)[None, :]
    first = tl.load(source[:, None] + lane[None, :], mask=mask, other=0.0)
    second = tl.load(source[:, None] + half + lane[None, :], mask=mask, other=0.0)
    a, b = first.to(tl.float32), second.to(tl.float32)
    tl.store(target[:, None] + lane[None, :], (a * cos - b * sin).to(first.dtype), mask=mask)
    tl.store(target[:, None] + half + lane[None, :], (b * cos + a * sin).to(first.dtype), mask=mask)
    if ROT < D:
        rest = ROT + tl.arange(0, REST_PAD)
        keep = present[:, None] & (rest < D)[None, :]
        tl.store(target[:, None] + rest[None, :], tl.load(source[:, None] + rest[None, :], mask=keep), mask=keep)


def apply_rope(
    positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin_cache: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    if q.stride(-1) != 1 or k.stride(-1) != 1:
        q, k = q.contiguous(), k.contiguous()
    q_out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    k_out = torch.empty(k.shape, dtype=k.dtype, device=k.device)
    tokens, num_heads, head_size = q.shape
    num_kv_heads = k.shape[1]
    rot_dim = cos_sin_cache.shape[-1]
    if tokens:
        parts = triton.cdiv(num_heads, _HEADS) + triton.cdiv(num_kv_heads, _HEADS)
        _rope_kernel[(tokens, parts)](
            positions,
            q,
            k,
            cos_sin_cache,
            q_out,
            k_out,
            q.stride(0),
            q.stride(1),
            k.stride(0),
            k.stride(1),
            H=num_heads,
            K=num_kv_heads,
            D=head_size,
            ROT=rot_dim,
            HALF_PAD=triton.next_power_of_2(rot_dim // 2),
            REST_PAD=triton.next_power_of_2(max(1, head_size - rot_dim)),
            HEADS=_HEADS,
            num_warps=2,
            **pdl.options(q.device),
        )
    return q_out, k_out
