"""Products with few rows, which read the weight once at the speed of memory; more rows go to torch's library."""

import torch
import torch.nn.functional as F

from kvasir.ops.cpp.activation import silu_and_mul

_MAX_ROWS = {torch.bfloat16: 16, torch.float32: 64}
"""From here on the library's blocked product is as fast or faster (docs/design/native-kernels.md)."""
_MIN_OUTPUTS = 16

_linear = torch.ops.kvasir.linear.default
_linear_bias = torch.ops.kvasir.linear_bias.default


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    if x.shape[:-1].numel() > _MAX_ROWS.get(x.dtype, 0) or weight.shape[0] < _MIN_OUTPUTS:
        return F.linear(x, weight, bias)
    return _linear(x, weight) if bias is None else _linear_bias(x, weight, bias)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return silu_and_mul(linear(x, weight, bias))
