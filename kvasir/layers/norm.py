"""Root-mean-square norm, alone or fused with the residual addition before it."""

import torch
from torch import nn

from kvasir.distributed.shard import Piece, sharded_parameter, whole
from kvasir.ops import add_rms_norm, rms_norm
from kvasir.quantization.base import PendingNorm


class RMSNorm(nn.Module):
    """Normalises the last axis of x [..., size]."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.eps = eps
        self.weight = sharded_parameter({"": Piece((whole(size),))}, dtype, device)  # [size]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return rms_norm(x, self.weight, self.eps)

    def pending(self, x: torch.Tensor, residual: torch.Tensor) -> PendingNorm:
        """The norm of x + residual, left to the product that reads it."""
        return PendingNorm(x, residual, self.weight, self.eps)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """-> (norm of x + residual, x + residual); the inputs may be overwritten."""
        return add_rms_norm(x, residual, self.weight, self.eps)
