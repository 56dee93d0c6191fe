"""SEAM: a LinearMethod owns the weight of a linear layer, from the empty parameter to the product."""

from typing import Protocol

import torch

from kvasir.distributed.shard import Span


class LinearMethod(Protocol):
    """Called in this order: `create` once, the loader fills the parameters, `finish_load` once, `apply` for ever."""

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

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [T, in] -> [T, sum of outputs]."""
        ...

    def apply_gated(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [T, in] -> [T, I]: silu(gate) * up of a stacked gate and up projection, of I outputs each."""
        ...
