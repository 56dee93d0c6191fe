"""Projections. Each knows which part of the checkpoint's tensor its worker holds; how it is stored and multiplied
is its LinearMethod's business.

    Replicated      every worker holds all of it
    Column          outputs are split: each worker computes some of them
    Merged, QKV     several column-parallel projections of one input, stacked into one product
    Row             inputs are split: each worker adds its part of every output
"""

import torch
from torch import nn

from kvasir.distributed.groups import TensorParallelGroup
from kvasir.distributed.shard import Span, sharded_parameter, split, split_kv_heads, stack, whole
from kvasir.quantization.base import LinearMethod, Normed, PendingNorm


class LinearBase(nn.Module):
    """x [T, in] -> [T, sum of outputs], for this worker's spans.

    Args:
        outputs: stacked outputs in order, part name -> span; the one part of a plain projection is named "".
    """

    def __init__(
        self,
        inputs: Span,
        outputs: dict[str, Span],
        bias: bool,
        method: LinearMethod,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__()
        self.inputs = inputs
        self.outputs = outputs
        self.method = method
        method.create(self, inputs, outputs, dtype, device)
        self.bias = sharded_parameter(stack(outputs), dtype, device) if bias else None  # [sum of outputs]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.method.apply(self, x, self.bias)

    def finish_load(self) -> None:
        self.method.finish_load(self)

    def extra_repr(self) -> str:
        return (
            f"in={self.inputs.size}, out={[span.size for span in self.outputs.values()]}, bias={self.bias is not None}"
        )


class ReplicatedLinear(LinearBase):
    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool,
        method: LinearMethod,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__(whole(input_size), {"": whole(output_size)}, bias, method, dtype, device)


class ColumnParallelLinear(LinearBase):
    """x [T, in] -> [T, out / world]."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool,
        method: LinearMethod,
        dtype: torch.dtype,
        device: torch.device,
        group: TensorParallelGroup,
    ):
        outputs = {"": split(output_size, group.rank, group.world_size, "output size")}
        super().__init__(whole(input_size), outputs, bias, method, dtype, device)


class MergedColumnParallelLinear(LinearBase):
    """Several projections of one input, e.g. {"gate": I, "up": I}: x [T, in] -> [T, sum of outputs / world]."""

    def __init__(
        self,
        input_size: int,
        output_sizes: dict[str, int],
        bias: bool,
        method: LinearMethod,
        dtype: torch.dtype,
        device: torch.device,
        group: TensorParallelGroup,
    ):
        outputs = {
            name: split(size, group.rank, group.world_size, f"output size of {name}")
            for name, size in output_sizes.items()
        }
        super().__init__(whole(input_size), outputs, bias, method, dtype, device)

    def forward_gated(self, x: torch.Tensor) -> torch.Tensor:
        """x [T, in] -> [T, I / world]: silu of the first part times the second; the layer has two parts of one size."""
        return self.method.apply(self, x, self.bias, gated=True)

    def forward_normed_gated(self, pending: PendingNorm) -> Normed:
        """The same of a norm and an addition still to be done, and the sum."""
        return self.method.apply_normed(self, pending, self.bias, gated=True)


class QKVParallelLinear(LinearBase):
    """x [T, E] -> [T, (H + 2 K) * D] of this worker's heads, queries first; parts "q", "k", "v"."""

    def __init__(
        self,
        hidden_size: int,
        head_size: int,
        num_heads: int,
        num_kv_heads: int,
        bias: bool,
        method: LinearMethod,
        dtype: torch.dtype,
        device: torch.device,
        group: TensorParallelGroup,
    ):
        kv = split_kv_heads(num_kv_heads, head_size, group.rank, group.world_size)
        q = split(num_heads * head_size, group.rank, group.world_size, "num_heads", head_size)
        super().__init__(whole(hidden_size), {"q": q, "k": kv, "v": kv}, bias, method, dtype, device)
        self.head_size = head_size
        self.num_heads = q.size // head_size
        self.num_kv_heads = kv.size // head_size

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """-> q [T, H, D], k [T, K, D], v [T, K, D], views of one product."""
        return self._heads(super().forward(x))

    def forward_normed(
        self, pending: PendingNorm
    ) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        """The same of a norm and an addition still to be done, and the sum."""
        product, total = self.method.apply_normed(self, pending, self.bias)
        return self._heads(product), total

    def _heads(self, product: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        heads = product.unflatten(-1, (-1, self.head_size))  # [T, H + 2 K, D]
        q, k, v = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=-2)
        return q, k, v


class RowParallelLinear(LinearBase):
    """x [T, in / world] -> [T, out], summed over the group. The bias is added once, by rank 0."""

    def __init__(
        self,
        input_size: int,
        output_size: int,
        bias: bool,
        method: LinearMethod,
        dtype: torch.dtype,
        device: torch.device,
        group: TensorParallelGroup,
        unit: int = 1,
    ):
        inputs = split(input_size, group.rank, group.world_size, "input size", unit)
        super().__init__(inputs, {"": whole(output_size)}, bias, method, dtype, device)
        self.group = group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.group.all_reduce(self.method.apply(self, x, self.bias if self.group.rank == 0 else None))
