"""The plain method: the weight as the checkpoint has it."""

import torch
from torch.nn import functional as F

from kvasir.distributed.shard import Span, sharded_parameter, stack


class UnquantizedLinearMethod:
    def create(
        self,
        layer: torch.nn.Module,
        inputs: Span,
        outputs: dict[str, Span],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        layer.weight = sharded_parameter(stack(outputs, inputs), dtype, device)  # [sum of outputs, in]

    def finish_load(self, layer: torch.nn.Module) -> None:
        """Nothing to repack."""

    def apply(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x, layer.weight, bias)
