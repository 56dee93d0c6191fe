"""Products with few rows, which read the weight once at the speed of memory; more rows go to torch's library."""

import torch
import torch.nn.functional as F

from kvasir.ops.cpp.activation import silu_and_mul
from kvasir.platforms.native import native_library

_MAX_ROWS = {
    "avx512bf16": {torch.bfloat16: 32, torch.float32: 64},
    "avx512": {torch.bfloat16: 64, torch.float32: 64},
    "avx2": {torch.bfloat16: 64, torch.float32: 32},
    "baseline": {torch.bfloat16: 64, torch.float32: 8},
}
"""Beyond these the library's blocked product is as fast or faster (docs/design/native-kernels.md)."""
_MIN_OUTPUTS = 16

_isa = native_library().isa
_linear = torch.ops.kvasir.linear.default
_linear_bias = torch.ops.kvasir.linear_bias.default


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if x.shape[:-1].numel() > _MAX_ROWS[_isa].get(x.dtype, 0) or weight.shape[0] < _MIN_OUTPUTS:
        return F.linear(x, weight, bias)
    return _linear(x, weight) if bias is None else _linear_bias(x, weight, bias)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return silu_and_mul(linear(x, weight, bias))
