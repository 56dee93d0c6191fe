"""The reference backend: the ops' specification as a backend. Slow, on any device, in any dtype, right."""

from dataclasses import dataclass

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed, GraphSupport
from kvasir.attention.transform import QKTransform
from kvasir.ops.reference.kv_write import reshape_and_cache
from kvasir.ops.reference.paged_attention import paged_attention


class ReferenceBuilder:
    """The batch already says everything."""

    def build(self, batch: AttentionBatch) -> AttentionBatch:
        return batch


@dataclass(frozen=True)
class ReferenceImpl:
    num_heads: int
    head_size: int
    scale: float
    num_kv_heads: int
    sliding_window: int | None = None
    logits_soft_cap: float | None = None

    def forward(
        self,
        query: torch.Tensor,  # [T, H, D]
        key: torch.Tensor,  # [T, K, D]
        value: torch.Tensor,  # [T, K, D]
        kv_cache: torch.Tensor,  # [2, N, S, K, D]
        metadata: AttentionBatch,
        transform: QKTransform | None = None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:  # [T, H, D]; with `last` [B, H, D]
        if transform is not None:
            query, key = transform(query, key)
        key_cache, value_cache = kv_cache.unbind(0)
        reshape_and_cache(key, value, key_cache, value_cache, metadata.slot_mapping)
        output = paged_attention(
            query,
            key_cache,
            value_cache,
            metadata.query_start_loc,
            metadata.seq_lens,
            metadata.block_table,
            metadata.table_rows,
            self.scale,
            sliding_window=self.sliding_window,
            soft_cap=self.logits_soft_cap,
        )
        return output if last is None else output[last]


class ReferenceBackend:
    name = "reference"
    graph_support = GraphSupport.NEVER

    @staticmethod
    def supports(need: AttentionNeed) -> str | None:
        if not need.dtype.is_floating_point:
            return f"dtype {need.dtype} is not a floating-point type"
        return None

    @staticmethod
    def kv_cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_size: int) -> tuple[int, ...]:
        return (2, num_blocks, block_size, num_kv_heads, head_size)

    @staticmethod
    def decode_kinds(need: AttentionNeed, max_rows: int) -> tuple[int, ...]:
        return ()  # nothing is compiled while it runs

    @staticmethod
    def make_builder(need: AttentionNeed) -> ReferenceBuilder:
        return ReferenceBuilder()

    @staticmethod
    def make_impl(
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        sliding_window: int | None = None,
        logits_soft_cap: float | None = None,
    ) -> ReferenceImpl:
        return ReferenceImpl(num_heads, head_size, scale, num_kv_heads, sliding_window, logits_soft_cap)
