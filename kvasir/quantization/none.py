"""The plain method: the weight as the checkpoint has it."""

import torch

from kvasir.distributed.shard import Span, sharded_parameter, stack
from kvasir.ops import gated_linear, linear, norm_gated_linear, norm_linear
from kvasir.quantization.base import Normed, PendingNorm


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

    def apply(
        self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None, *, gated: bool = False
    ) -> torch.Tensor:
        return (gated_linear if gated else linear)(x, layer.weight, bias)

    def apply_normed(
        self, layer: torch.nn.Module, pending: PendingNorm, bias: torch.Tensor | None, *, gated: bool = False
    ) -> Normed:
        return (norm_gated_linear if gated else norm_linear)(*pending, layer.weight, bias)
