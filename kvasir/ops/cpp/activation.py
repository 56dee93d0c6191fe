"""Gated activations."""

import torch

from kvasir.ops.cpp import DTYPES
from kvasir.ops.reference import activation as by_torch

_silu_and_mul = torch.ops.kvasir.silu_and_mul.default


def silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    if x.dtype in DTYPES and x.dim() == 2:
        return _silu_and_mul(x)
    return by_torch.silu_and_mul(x)
