"""x W^T for few rows of x: the time is that of reading W once, so the work is cut until all of the card reads.

Each program has some outputs and a share of the inputs; where several share outputs, the one that finishes last adds their
parts, always in the same order. W is the left operand of the tensor cores: their fixed side is 64 outputs wide, while the
rows of x may be as few as 8. W does not depend on the kernel before, so the first of it is asked for before x is there.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import prefetch, wait_for_predecessor

MAX_ROWS = 64
MAX_TICKETS = 1 << 16
_PREFETCH_BYTES = 64 << 10  # by one program: all programs that fit on a card together ask for less than its L2 holds


@dataclass(frozen=True)
class SkinnyConfig:
    """`block_n` outputs and `block_k` inputs at a time; `splits` programs share the inputs of the same outputs."""

    block_n: int
    block_k: int
    splits: int
    num_warps: int
    num_stages: int


def skinny_config(outputs: int, inputs: int) -> SkinnyConfig:
    """The best of the variants measured on an H100 (`benchmarks/kernels/linear.py --sweep`), by their pattern."""
    if outputs >= 16384:
        return SkinnyConfig(128, 128, 1, 4, 3)
    if outputs >= 2048:
        return SkinnyConfig(64, 128, 2 if inputs >= 8192 and outputs <= 4096 else 1, 4, 5)
    return SkinnyConfig(32, 128, 4 if inputs >= 1024 else 1, 4, 5)


def gated_config(outputs: int, inputs: int) -> SkinnyConfig:
    """For `outputs` of each of the two weights; a program's share of outputs is `block_n` of both."""
    return SkinnyConfig(64 if outputs >= 8192 else 32, 128, 1, 4, 3 if outputs >= 8192 else 5)


@triton.jit(do_not_specialize=["rows", "splits"])
def skinny_linear_kernel(
    x_ptr, weight_ptr, bias_ptr, output_ptr, partial_ptr, arrived_ptr,
    rows, splits, stride_x, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr, SPLIT: tl.constexpr, PREFETCH: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    split = tl.program_id(1)
    outputs = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.arange(0, BLOCK_M)
    lane = tl.arange(0, BLOCK_K)
    there = (outputs < N)[:, None]
    given = (row < rows)[None, :]
    share = tl.cdiv(tl.cdiv(K, BLOCK_K), splits) * BLOCK_K
    first = split * share
    weight_rows = weight_ptr + tl.minimum(outputs, N - 1).to(tl.int64) * K + first
    if PDL:
        prefetch(weight_rows, tl.minimum(tl.minimum(share, PREFETCH), K - first) * 2)
    wait_for_predecessor(PDL)
    weight = weight_rows[:, None] + lane[None, :]
    x = x_ptr + first + row[None, :] * stride_x + lane[:, None]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for at in range(0, tl.minimum(share, K - first), BLOCK_K):
        inside = lane + at < K - first
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


@triton.jit(do_not_specialize=["rows"])
def skinny_gated_kernel(
    x_ptr, weight_ptr, bias_ptr, output_ptr,
    rows, stride_x, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    HAS_BIAS: tl.constexpr, PREFETCH: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """silu(x G^T) * (x U^T), where W holds the N rows of G, then the N rows of U. Rounded where the two ops round."""
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.arange(0, BLOCK_M)
    lane = tl.arange(0, BLOCK_K)
    there = (outputs < N)[:, None]
    given = (row < rows)[None, :]
    weight_rows = weight_ptr + tl.minimum(outputs, N - 1).to(tl.int64) * K
    up = N.to(tl.int64) * K  # from a row of G to the same row of U
    if PDL:
        prefetch(weight_rows, tl.minimum(PREFETCH, K) * 2)
        prefetch(weight_rows + up, tl.minimum(PREFETCH, K) * 2)
    wait_for_predecessor(PDL)
    weight = weight_rows[:, None] + lane[None, :]
    x = x_ptr + row[None, :] * stride_x + lane[:, None]
    gate_acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    up_acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for at in range(0, K, BLOCK_K):
        inside = lane + at < K
        mask = there & inside[None, :]
        g = tl.load(weight + at, mask=mask, other=0.0, eviction_policy="evict_first")
        u = tl.load(weight + up + at, mask=mask, other=0.0, eviction_policy="evict_first")
        a = tl.load(x + at, mask=given & inside[:, None], other=0.0)
        gate_acc = tl.dot(g, a, gate_acc, input_precision="tf32x3")
        up_acc = tl.dot(u, a, up_acc, input_precision="tf32x3")
    if HAS_BIAS:
        gate_acc += tl.load(bias_ptr + outputs, mask=outputs < N, other=0.0).to(tl.float32)[:, None]
        up_acc += tl.load(bias_ptr + N + outputs, mask=outputs < N, other=0.0).to(tl.float32)[:, None]
    dtype = output_ptr.dtype.element_ty
    gate = gate_acc.to(dtype).to(tl.float32)
    silu = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
    target = output_ptr + row[None, :] * N + outputs[:, None]
    tl.store(target, (silu * up_acc.to(dtype).to(tl.float32)).to(dtype), mask=there & given)


@cache
def tickets(device: torch.device) -> torch.Tensor:
    """Zeros, one for each tile of outputs: how many of its programs have arrived; each launch leaves zeros behind.

    Must be called once before a launch is captured, since what is made during a capture belongs to that graph.
    """
    return torch.zeros(MAX_TICKETS, dtype=torch.int32, device=device)


def _shape(rows: int, config: SkinnyConfig, device: torch.device) -> dict[str, object]:
    return {
        "BLOCK_M": max(16, triton.next_power_of_2(rows)),
        "BLOCK_N": config.block_n,
        "BLOCK_K": config.block_k,
        "PREFETCH": _PREFETCH_BYTES // 2 // config.block_n,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
        **pdl.options(device),
    }


def skinny_linear(
    x: torch.Tensor,  # [M, K], last dimension contiguous, M <= MAX_ROWS
    weight: torch.Tensor,  # [N, K] contiguous
    bias: torch.Tensor | None,  # [N]
    config: SkinnyConfig | None = None,
) -> torch.Tensor:  # [M, N]
    rows, inputs = x.shape
    outputs = weight.shape[0]
    config = config or skinny_config(outputs, inputs)
    output = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    partial = output
    if config.splits > 1:
        partial = torch.empty(config.splits, rows, outputs, dtype=torch.float32, device=x.device)
    skinny_linear_kernel[(triton.cdiv(outputs, config.block_n), config.splits)](
        x, weight, bias, output, partial, tickets(x.device),
        rows, config.splits, x.stride(0), outputs, inputs,
        HAS_BIAS=bias is not None, SPLIT=config.splits > 1, **_shape(rows, config, x.device),
    )  # fmt: skip
    return output


def skinny_gated(
    x: torch.Tensor,  # [M, K], last dimension contiguous, M <= MAX_ROWS
    weight: torch.Tensor,  # [2 * N, K] contiguous: gate, then up
    bias: torch.Tensor | None,  # [2 * N]
    config: SkinnyConfig | None = None,
) -> torch.Tensor:  # [M, N]
    rows, inputs = x.shape
    outputs = weight.shape[0] // 2
    config = config or gated_config(outputs, inputs)
    output = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    skinny_gated_kernel[(triton.cdiv(outputs, config.block_n),)](
        x, weight, bias, output, rows, x.stride(0), outputs, inputs,
        HAS_BIAS=bias is not None, **_shape(rows, config, x.device),
    )  # fmt: skip
    return output
