"""SEAM: a LinearMethod owns the weight of a linear layer, from the empty parameter to the product."""

from typing import NamedTuple, Protocol

import torch

from kvasir.distributed.shard import Span


class PendingNorm(NamedTuple):
    """The input of a product before its norm: what is to be multiplied is the RMS norm of x + residual."""

    x: torch.Tensor  # [T, in]
    residual: torch.Tensor  # [T, in]
    weight: torch.Tensor  # [in]
    eps: float


Normed = tuple[torch.Tensor, torch.Tensor]
"""A product [T, out] of a pending norm, and the sum x + residual [T, in]."""


class LinearMethod(Protocol):
    """Called in this order: `create` once, the loader fills the parameters, `finish_load` once, `apply` for ever.

    A method whose kernels know nothing of norms does `add_rms_norm` first, then its product.
    """

    def create(
        self,
        layer: torch.nn.Module,
        inputs: Span,
        outputs: dict[str, Span],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Puts parameters (made by `sharded_parameter`) on `layer` for these input and stacked output spans."""
        ...

    def finish_load(self, layer: torch.nn.Module) -> None:
        """Repacks what was loaded into what the kernel wants."""
        ...

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None, *, gated: bool = False
    ) -> torch.Tensor:
        """x [T, in] -> [T, sum of outputs]; gated: [T, I], silu(gate) * up of a stacked gate and up projection."""
        ...

    def apply_normed(
        self, layer: torch.nn.Module, pending: PendingNorm, bias: torch.Tensor | None, *, gated: bool = False
    ) -> Normed:
        """`apply` of the norm, and the sum."""
        ...
