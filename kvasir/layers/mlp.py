"""The gated feed-forward block: down(silu(gate(x)) * up(x))."""

from collections.abc import Callable

import torch
from torch import nn

from kvasir.distributed.groups import TensorParallelGroup
from kvasir.errors import ConfigError
from kvasir.layers.linear import MergedColumnParallelLinear, RowParallelLinear
from kvasir.quantization.base import LinearMethod, Normed, PendingNorm


class GatedMLP(nn.Module):
    """x [T, E] -> [T, E]. `linear_method` is asked once for each projection, by its name in this module."""

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: str,
        bias: bool,
        linear_method: Callable[[str], LinearMethod],
        dtype: torch.dtype,
        device: torch.device,
        group: TensorParallelGroup,
    ):
        super().__init__()
        if activation not in ("silu", "swish"):  # two names of one function
            raise ConfigError(f"hidden_act is {activation!r}; this model runs with 'silu' only.")
        parts = {"gate": intermediate_size, "up": intermediate_size}
        self.gate_up_proj = MergedColumnParallelLinear(
            hidden_size, parts, bias, linear_method("gate_up_proj"), dtype, device, group
        )
        self.down_proj = RowParallelLinear(
            intermediate_size, hidden_size, bias, linear_method("down_proj"), dtype, device, group
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.gate_up_proj.forward_gated(x))

    def forward_normed(self, pending: PendingNorm) -> Normed:
        """The same of a norm and an addition still to be done, and the sum."""
        gated, total = self.gate_up_proj.forward_normed_gated(pending)
        return self.down_proj(gated), total
