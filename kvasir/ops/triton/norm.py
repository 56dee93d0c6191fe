"""RMS norm in Triton: one pass over a row, several short rows per program (QK norm has rows of one head)."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import let_successor_begin, wait_for_predecessor

_FEW_ROWS = tl.constexpr(32)
"""Up to here the product behind the norm finds room for its weight; prompts lose by it (docs/design/gpu-path.md)."""
_MIN_TILE = 1024  # elements per program; shorter rows share one


@dataclass(frozen=True)
class AddedNorm:
    """The addition and the norm before a product, for a kernel that does all three."""

    residual: torch.Tensor  # [T, E] contiguous
    weight: torch.Tensor  # [E]
    eps: float
    total: torch.Tensor  # [T, E] contiguous, to be filled: x + residual


@triton.jit(do_not_specialize=["num_rows", "heads"])
def _rms_norm_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    output_ptr,
    sum_ptr,
    num_rows,
    heads,
    stride_token,
    stride_head,
    eps,
    E: tl.constexpr,
    BLOCK_E: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
):
    if num_rows <= _FEW_ROWS:
        let_successor_begin(PDL)
    wait_for_predecessor(PDL)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK_E)
    mask = (rows < num_rows)[:, None] & (columns < E)[None, :]
    source = (rows // heads * stride_token + rows % heads * stride_head)[:, None] + columns[None, :]
    target = rows[:, None] * E + columns[None, :]
    x = tl.load(x_ptr + source, mask=mask, other=0.0)
    dtype = x.dtype
    if ADD:
        residual = tl.load(residual_ptr + target, mask=mask, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(dtype)
        tl.store(sum_ptr + target, x, mask=mask)
    wide = x.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide, axis=1) / E + eps)
    normed = (wide * scale[:, None]).to(dtype)  # rounded before the weight, as transformers does
    weight = tl.load(weight_ptr + columns, mask=columns < E, other=0.0)
    tl.store(output_ptr + target, (normed.to(tl.float32) * weight.to(tl.float32)[None, :]).to(dtype), mask=mask)


def _launch(
    x: torch.Tensor,  # [T, E] or [T, heads, E], last dimension contiguous
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    output: torch.Tensor,  # contiguous
    total: torch.Tensor | None,
    eps: float,
) -> None:
    size = x.shape[-1]
    num_rows = x.numel() // size if size else 0
    if num_rows == 0:
        return
    heads = x.shape[1] if x.dim() == 3 else 1
    block = triton.next_power_of_2(size)
    rows = max(1, _MIN_TILE // block)
    _rms_norm_kernel[(triton.cdiv(num_rows, rows),)](
        x,
        residual,
        weight,
        output,
        total,
        num_rows,
        heads,
        x.stride(0),
        x.stride(1) if x.dim() == 3 else 0,
        eps,
        E=size,
        BLOCK_E=block,
        ROWS=rows,
        ADD=residual is not None,
        num_warps=4 if block <= 4096 else 8,
        **pdl.options(x.device),
    )


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    output = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rows = x if x.dim() in (2, 3) and x.stride(-1) == 1 else x.reshape(-1, x.shape[-1]).contiguous()
    _launch(rows, None, weight, output, None, eps)
    return output


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    x = x.reshape(-1, x.shape[-1])
    if x.stride(-1) != 1:
        x = x.contiguous()
    output, total = torch.empty(residual.shape, dtype=x.dtype, device=x.device), torch.empty_like(residual)
    _launch(x, residual.contiguous(), weight, output, total, eps)
    return output, total
