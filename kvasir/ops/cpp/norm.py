"""RMS norm."""

import torch

from kvasir.ops.cpp import DTYPES
from kvasir.ops.cpu import norm as by_torch

_rms_norm = torch.ops.kvasir.rms_norm.default
_add_rms_norm = torch.ops.kvasir.add_rms_norm.default


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    if x.dtype in DTYPES and x.dim() <= 3:
        return _rms_norm(x, weight, eps)
    return by_torch.rms_norm(x, weight, eps)


def add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    if x.dtype in DTYPES and residual.is_contiguous():
        return _add_rms_norm(x, residual, weight, eps)
    return by_torch.add_rms_norm(x, residual, weight, eps)
