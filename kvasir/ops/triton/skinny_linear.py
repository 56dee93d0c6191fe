"""x W^T for few rows of x: the time is that of reading W once, so the work is cut until all of the card reads.

Each program has some outputs and a share of the inputs; where several share outputs, the one that finishes last adds their
parts, always in the same order. W is the left operand of the tensor cores: their fixed side is 64 outputs wide, while the
rows of x may be as few as 8.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

MAX_ROWS = 64
MAX_TICKETS = 1 << 16


@dataclass(frozen=True)
class SkinnyConfig:
    """`block_n` outputs and `block_k` inputs at a time; `splits` programs share the inputs of the same outputs."""

    block_n: int
    block_k: int
    splits: int
    num_warps: int
    num_stages: int


@triton.jit(do_not_specialize=["rows", "splits"])
def skinny_linear_kernel(
    x_ptr, weight_ptr, bias_ptr, output_ptr, partial_ptr, arrived_ptr,
    rows, splits, stride_x, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    split = tl.program_id(1)
    outputs = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.arange(0, BLOCK_M)
    lane = tl.arange(0, BLOCK_K)
    weight = weight_ptr + outputs[:, None].to(tl.int64) * K + lane[None, :]
    x = x_ptr + row[None, :] * stride_x + lane[:, None]
    there = (outputs < N)[:, None]
    given = (row < rows)[None, :]
    share = tl.cdiv(tl.cdiv(K, BLOCK_K), splits) * BLOCK_K
    first = split * share
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for at in range(first, tl.minimum(first + share, K), BLOCK_K):
        inside = lane + at < K
        w = tl.load(weight + at, mask=there & inside[None, :], other=0.0, eviction_policy="evict_first")
        a = tl.load(x + at, mask=given & inside[:, None], other=0.0)
        acc = tl.dot(w, a, acc, input_precision="tf32x3")

    if SPLIT:
        cell = (split * rows + row[None, :]) * N + outputs[:, None]
        tl.store(partial_ptr + cell, acc, mask=there & given)
        tl.debug_barrier()  # every thread's part is written before any is announced
        if tl.atomic_add(arrived_ptr + tile, 1, sem="acq_rel", scope="gpu") != splits - 1:
            return
        tl.store(arrived_ptr + tile, 0)  # for the next launch
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for other in range(0, splits):
            cell = (other * rows + row[None, :]) * N + outputs[:, None]
            acc += tl.load(partial_ptr + cell, mask=there & given, other=0.0, cache_modifier=".cg")
    if HAS_BIAS:
        acc += tl.load(bias_ptr + outputs, mask=outputs < N, other=0.0).to(tl.float32)[:, None]
    target = output_ptr + row[None, :] * N + outputs[:, None]
    tl.store(target, acc.to(output_ptr.dtype.element_ty), mask=there & given)


@cache
def tickets(device: torch.device) -> torch.Tensor:
    """Zeros, one for each tile of outputs: how many of its programs have arrived; each launch leaves zeros behind.

    Must be called once before a launch is captured, since what is made during a capture belongs to that graph.
    """
    return torch.zeros(MAX_TICKETS, dtype=torch.int32, device=device)


def skinny_linear(
    x: torch.Tensor,  # [M, K], last dimension contiguous, M <= MAX_ROWS
    weight: torch.Tensor,  # [N, K] contiguous
    bias: torch.Tensor | None,  # [N]
    config: SkinnyConfig,
) -> torch.Tensor:  # [M, N]
    rows, inputs = x.shape
    outputs = weight.shape[0]
    output = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    partial = output
    if config.splits > 1:
        partial = torch.empty(config.splits, rows, outputs, dtype=torch.float32, device=x.device)
    skinny_linear_kernel[(triton.cdiv(outputs, config.block_n), config.splits)](
        x, weight, bias, output, partial, tickets(x.device),
        rows, config.splits, x.stride(0), outputs, inputs,
        BLOCK_M=max(16, triton.next_power_of_2(rows)), BLOCK_N=config.block_n,
        BLOCK_K=config.block_k, HAS_BIAS=bias is not None, SPLIT=config.splits > 1,
        num_warps=config.num_warps, num_stages=config.num_stages,
    )  # fmt: skip
    return output
