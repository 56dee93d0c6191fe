"""The plain method: the weight as the checkpoint has it."""

import torch

from kvasir.distributed.shard import Span, sharded_parameter, stack
from kvasir.ops import gated_linear, linear


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
        return linear(x, layer.weight, bias)

    def apply_gated(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        return gated_linear(x, layer.weight, bias)
