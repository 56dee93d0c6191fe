"""Head norms, rotation and cache write in one launch: each program has some heads of one token."""

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import wait_for_predecessor

_HEADS = 8  # heads per program


@triton.jit
def _turn(
    source, weight_ptr, cos, sin, eps, target, keep,
    D: tl.constexpr, ROT: tl.constexpr, HALF_PAD: tl.constexpr, REST_PAD: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """source, target: [HEADS, 1] pointers to heads; keep: [HEADS, 1], heads to write."""
    half: tl.constexpr = ROT // 2
    lane = tl.arange(0, HALF_PAD)[None, :]
    rest = ROT + tl.arange(0, REST_PAD)[None, :]
    mask = keep & (lane < half)
    first = tl.load(source + lane, mask=mask, other=0.0)
    second = tl.load(source + half + lane, mask=mask, other=0.0)
    dtype = first.dtype
    a, b = first.to(tl.float32), second.to(tl.float32)
    c = tl.zeros_like(a)
    if ROT < D:
        c = tl.load(source + rest, mask=keep & (rest < D), other=0.0).to(tl.float32)
    if NORM:
        squares = tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)
        if ROT < D:
            squares += tl.sum(c * c, axis=1)
        scale = tl.rsqrt(squares / D + eps)[:, None]
        inside = lane < half
        low = tl.load(weight_ptr + lane, mask=inside, other=0.0).to(tl.float32)
        high = tl.load(weight_ptr + half + lane, mask=inside, other=0.0).to(tl.float32)
        a = ((a * scale).to(dtype).to(tl.float32) * low).to(dtype).to(tl.float32)  # rounded where rms_norm rounds
        b = ((b * scale).to(dtype).to(tl.float32) * high).to(dtype).to(tl.float32)
        if ROT < D:
            tail = tl.load(weight_ptr + rest, mask=rest < D, other=0.0).to(tl.float32)
            c = ((c * scale).to(dtype).to(tl.float32) * tail).to(dtype).to(tl.float32)
    out = target.dtype.element_ty
    tl.store(target + lane, (a * cos - b * sin).to(dtype).to(out), mask=mask)
    tl.store(target + half + lane, (b * cos + a * sin).to(dtype).to(out), mask=mask)
    if ROT < D:
        tl.store(target + rest, c.to(dtype).to(out), mask=keep & (rest < D))


@triton.jit
def _rope_and_cache_kernel(
    positions_ptr, query_ptr, key_ptr, value_ptr, cos_sin_ptr, query_weight_ptr, key_weight_ptr, eps,
    query_out_ptr, key_cache_ptr, value_cache_ptr, slot_ptr,
    query_stride_token, query_stride_head, key_stride_token, key_stride_head, value_stride_token, value_stride_head,
    stride_block, stride_slot, stride_head,
    H: tl.constexpr, K: tl.constexpr, D: tl.constexpr, ROT: tl.constexpr, S: tl.constexpr,
    HALF_PAD: tl.constexpr, REST_PAD: tl.constexpr, D_PAD: tl.constexpr, HEADS: tl.constexpr,
    NORM_Q: tl.constexpr, NORM_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Positions and slots are inputs of the step, so they and the angles are read beside the kernel before (`pdl.py`)."""
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    half: tl.constexpr = ROT // 2
    pair = tl.arange(0, HALF_PAD)
    angles = cos_sin_ptr + tl.load(positions_ptr + token).to(tl.int64) * ROT
    cos = tl.load(angles + pair, mask=pair < half, other=0.0)[None, :]
    sin = tl.load(angles + half + pair, mask=pair < half, other=0.0)[None, :]
    slot = tl.load(slot_ptr + token)
    wait_for_predecessor(PDL)
    q_parts: tl.constexpr = (H + HEADS - 1) // HEADS
    k_parts: tl.constexpr = (K + HEADS - 1) // HEADS
    heads = tl.arange(0, HEADS)[:, None]
    if part < q_parts + k_parts:
        if part < q_parts:
            heads += part * HEADS
            source = query_ptr + token * query_stride_token + heads * query_stride_head
            target = query_out_ptr + (token * H + heads) * D
            _turn(source, query_weight_ptr, cos, sin, eps, target, heads < H, D, ROT, HALF_PAD, REST_PAD, NORM_Q)
        else:
            heads += (part - q_parts) * HEADS
            source = key_ptr + token * key_stride_token + heads * key_stride_head
            target = key_cache_ptr + slot // S * stride_block + slot % S * stride_slot + heads * stride_head
            keep = (heads < K) & (slot >= 0)
            _turn(source, key_weight_ptr, cos, sin, eps, target, keep, D, ROT, HALF_PAD, REST_PAD, NORM_K)
    else:
        heads += (part - q_parts - k_parts) * HEADS
        lane = tl.arange(0, D_PAD)[None, :]
        mask = (heads < K) & (lane < D) & (slot >= 0)
        value = tl.load(value_ptr + token * value_stride_token + heads * value_stride_head + lane, mask=mask)
        target = value_cache_ptr + slot // S * stride_block + slot % S * stride_slot + heads * stride_head
        tl.store(target + lane, value.to(value_cache_ptr.dtype.element_ty), mask=mask)


def rope_and_cache(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cos_sin_cache: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slot_mapping: torch.Tensor,
    query_weight: torch.Tensor | None = None,
    key_weight: torch.Tensor | None = None,
    eps: float = 0.0,
    output: torch.Tensor | None = None,  # [T, H, D] contiguous, to be filled
) -> torch.Tensor:
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    tokens, num_heads, head_size = query.shape
    num_kv_heads, rot_dim = key.shape[1], cos_sin_cache.shape[-1]
    if output is None:
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    if tokens:
        parts = triton.cdiv(num_heads, _HEADS) + 2 * triton.cdiv(num_kv_heads, _HEADS)
        _rope_and_cache_kernel[(tokens, parts)](
            positions, query, key, value, cos_sin_cache, query_weight, key_weight, eps,
            output, key_cache, value_cache, slot_mapping,
            query.stride(0), query.stride(1), key.stride(0), key.stride(1), value.stride(0), value.stride(1),
            key_cache.stride(0), key_cache.stride(1), key_cache.stride(2),
            H=num_heads, K=num_kv_heads, D=head_size, ROT=rot_dim, S=key_cache.shape[1],
            HALF_PAD=triton.next_power_of_2(rot_dim // 2),
            REST_PAD=triton.next_power_of_2(max(1, head_size - rot_dim)),
            D_PAD=triton.next_power_of_2(head_size), HEADS=_HEADS,
            NORM_Q=query_weight is not None, NORM_K=key_weight is not None, num_warps=2,
            **pdl.options(query.device),
        )  # fmt: skip
    return output
