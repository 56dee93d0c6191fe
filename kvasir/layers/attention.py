"""The one layer that reads the forward context: it finds the step's metadata and its own KV cache there."""

import torch
from torch import nn

from kvasir.attention.backend import AttentionBackend
from kvasir.attention.forward_context import get_forward_context
from kvasir.attention.transform import QKTransform


class Attention(nn.Module):
    """q [T, H, D], k and v [T, K, D] -> [T, H, D]; q and k go through `transform`, k and v into the layer's cache.

    With `last` [B]: -> [B, H, D], of those tokens only, which are the last ones of `AttentionBatch.last_rows`.

    `num_heads` and `num_kv_heads` are this worker's.
    """

    def __init__(
        self,
        layer_index: int,
        num_heads: int,
        num_kv_heads: int,
        head_size: int,
        backend: type[AttentionBackend],
        scale: float | None = None,
        sliding_window: int | None = None,
        logits_soft_cap: float | None = None,
    ):
        super().__init__()
        self.layer_index = layer_index
        self.impl = backend.make_impl(
            num_heads=num_heads,
            head_size=head_size,
            scale=head_size**-0.5 if scale is None else scale,
            num_kv_heads=num_kv_heads,
            sliding_window=sliding_window,
            logits_soft_cap=logits_soft_cap,
        )

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        transform: QKTransform | None = None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:
        context = get_forward_context()
        return self.impl.forward(q, k, v, context.kv_caches[self.layer_index], context.metadata, transform, last)

    @staticmethod
    def result_shape(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        transform: QKTransform | None = None,
        last: torch.Tensor | None = None,
    ) -> tuple[int, ...]:
        """Of what `forward` returns: all that a tracer needs to know of it."""
        return (q.shape[0] if last is None else last.shape[0], *q.shape[1:])
