"""x W^T for one to four rows of x, without tensor cores: each program holds its rows of W in registers.

W does not depend on the kernel before this one, so it is loaded before that has ended: with dependent launches all of a
layer's weight is on its way, or there, when x is. What then remains is a product, a sum and a store.
"""

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.norm import AddedNorm
from kvasir.ops.triton.pdl import wait_for_predecessor

MAX_ROWS = 4
_ELEMENTS = 8192  # of W in a program: 64 a thread
MAX_INPUTS = 2 * _ELEMENTS


@triton.jit(do_not_specialize=["rows"])
def gemv_kernel(
    x_ptr, residual_ptr, norm_ptr, weight_ptr, bias_ptr, output_ptr, sum_ptr, rows, stride_x, N, K, eps,
    BLOCK_N: tl.constexpr, K_PAD: tl.constexpr, HAS_BIAS: tl.constexpr, GATED: tl.constexpr, NORM: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """GATED: W holds N rows of a gate, then N rows beside it; the output is silu(gate) * beside, rounded in between.

    NORM: what is multiplied is the RMS norm of x + residual, rounded where add_rms_norm rounds; the first program also
    leaves that sum. Each program has whole rows of x at hand, so a norm costs it one sum more.
    """
    outputs = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    lane = tl.arange(0, K_PAD)
    there = (outputs < N)[:, None] & (lane < K)[None, :]
    source = weight_ptr + outputs[:, None].to(tl.int64) * K + lane[None, :]
    weight = tl.load(source, mask=there, other=0.0, eviction_policy="evict_first")
    beside = weight
    if GATED:
        beside = tl.load(source + N.to(tl.int64) * K, mask=there, other=0.0, eviction_policy="evict_first")
    bias = tl.zeros([BLOCK_N], tl.float32)
    beside_bias = bias
    if HAS_BIAS:
        bias = tl.load(bias_ptr + outputs, mask=outputs < N, other=0.0).to(tl.float32)
        if GATED:
            beside_bias = tl.load(bias_ptr + N + outputs, mask=outputs < N, other=0.0).to(tl.float32)
    if NORM:
        norm = tl.load(norm_ptr + lane, mask=lane < K, other=0.0).to(tl.float32)
    wait_for_predecessor(PDL)
    dtype = output_ptr.dtype.element_ty
    for row in range(0, rows):
        x = tl.load(x_ptr + row * stride_x + lane, mask=lane < K, other=0.0).to(tl.float32)
        if NORM:
            x = (x + tl.load(residual_ptr + row * K + lane, mask=lane < K, other=0.0).to(tl.float32)).to(dtype)
            tl.store(sum_ptr + row * K + lane, x, mask=(lane < K) & (tl.program_id(0) == 0))
            x = x.to(tl.float32)
            scale = tl.rsqrt(tl.sum(x * x) / K + eps)
            x = ((x * scale).to(dtype).to(tl.float32) * norm).to(dtype).to(tl.float32)
        x = x[None, :]
        product = tl.sum(weight.to(tl.float32) * x, axis=1) + bias
        if GATED:
            gate = product.to(dtype).to(tl.float32)
            silu = (gate / (1.0 + tl.exp(-gate))).to(dtype).to(tl.float32)
            other = tl.sum(beside.to(tl.float32) * x, axis=1) + beside_bias
            product = silu * other.to(dtype).to(tl.float32)
        tl.store(output_ptr + row * N + outputs, product.to(dtype), mask=outputs < N)


def gemv(
    x: torch.Tensor,  # [M, K], last dimension contiguous, M <= MAX_ROWS, K <= MAX_INPUTS
    weight: torch.Tensor,  # [N, K] contiguous; gated: [2 * N, K]
    bias: torch.Tensor | None = None,  # [N]; gated: [2 * N]
    gated: bool = False,
    norm: AddedNorm | None = None,
) -> torch.Tensor:  # [M, N]
    """With `norm`: of the normed sum of x and its residual, and the sum is left in `norm.total`."""
    rows, inputs = x.shape
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    output = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    padded = triton.next_power_of_2(inputs)
    block_n = max(1, _ELEMENTS // padded // (2 if gated else 1))
    gemv_kernel[(triton.cdiv(outputs, block_n),)](
        x, norm and norm.residual, norm and norm.weight, weight, bias, output, norm and norm.total,
        rows, x.stride(0), outputs, inputs, norm.eps if norm else 0.0,
        BLOCK_N=block_n, K_PAD=padded, HAS_BIAS=bias is not None, GATED=gated, NORM=norm is not None,
        num_warps=4 if padded < 8192 else 8, **pdl.options(x.device),
    )  # fmt: skip
    return output
