"""Gated activations in Triton."""

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import wait_for_predecessor

_BLOCK = 1024


@triton.jit
def _silu_and_mul_kernel(x_ptr, output_ptr, stride_token, SIZE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    wait_for_predecessor(PDL)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = columns < SIZE
    gate = tl.load(x_ptr + token * stride_token + columns, mask=mask, other=0.0)
    up = tl.load(x_ptr + token * stride_token + SIZE + columns, mask=mask, other=0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)  # rounded before the product, as torch does
    tl.store(output_ptr + token * SIZE + columns, (silu.to(tl.float32) * up.to(tl.float32)).to(gate.dtype), mask=mask)


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if rows.stride(-1) != 1:
        rows = rows.contiguous()
    size = x.shape[-1] // 2
    output = torch.empty((*x.shape[:-1], size), dtype=x.dtype, device=x.device)
    if output.numel():
        grid = (rows.shape[0], triton.cdiv(size, _BLOCK))
        _silu_and_mul_kernel[grid](
            rows, output, rows.stride(0), SIZE=size, BLOCK=_BLOCK, num_warps=4, **pdl.options(x.device)
        )
    return output
