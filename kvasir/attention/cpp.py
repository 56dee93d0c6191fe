"""The backend of the native library's CPU kernels: decode and prefill rows of one ragged step over the paged cache.

Cache layout [N, 2, K, S, D]: a task of the kernel works for one KV head and reads runs of S * D elements. Importing
this module fails when the native library cannot be loaded, with the reason.
"""

from dataclasses import dataclass

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed, GraphSupport
from kvasir.attention.transform import QKTransform
from kvasir.ops.cpp import DTYPES
from kvasir.ops.cpp.kv_write import reshape_and_cache
from kvasir.ops.cpp.paged_attention import paged_attention
from kvasir.ops.cpp.rope import rope_and_cache


class CppBuilder:
    """The kernels read the batch's tensors themselves: nothing is left to prepare."""

    def build(self, batch: AttentionBatch) -> AttentionBatch:
        return batch


@dataclass(frozen=True)
class CppImpl:
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
        kv_cache: torch.Tensor,  # [N, 2, K, S, D]
        metadata: AttentionBatch,
        transform: QKTransform | None = None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:  # [T, H, D]; with `last` [B, H, D]
        key_cache, value_cache = kv_cache.transpose(2, 3).unbind(1)  # [N, S, K, D]
        if transform is None:
            reshape_and_cache(key, value, key_cache, value_cache, metadata.slot_mapping)
        else:
            query = rope_and_cache(
                transform.positions, query, key, value, transform.cos_sin, key_cache, value_cache,
                metadata.slot_mapping, transform.query_weight, transform.key_weight, transform.eps,
            )  # fmt: skip
        starts, lens, rows = metadata.query_start_loc, metadata.seq_lens, metadata.table_rows
        if last is not None:  # the other tokens' keys are in the cache, which is all that is wanted of them
            query, lens, rows = query[last], lens[metadata.last_rows], rows[metadata.last_rows]
            starts = torch.arange(last.shape[0] + 1, dtype=torch.int32)
        return paged_attention(
            query,
            key_cache,
            value_cache,
            starts,
            lens,
            metadata.block_table,
            rows,
            self.scale,
            sliding_window=self.sliding_window,
            soft_cap=self.logits_soft_cap,
        )


class CppBackend:
    name = "cpp"
    graph_support = GraphSupport.NEVER

    @staticmethod
    def supports(need: AttentionNeed) -> str | None:
        if need.device != "cpu":
            return f"it runs on CPU only, the device is {need.device}"
        if need.dtype not in DTYPES:
            return f"dtype {need.dtype} is none of {', '.join(str(d) for d in DTYPES)}"
        return None

    @staticmethod
    def kv_cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_size: int) -> tuple[int, ...]:
        return (num_blocks, 2, num_kv_heads, block_size, head_size)

    @staticmethod
    def decode_kinds(need: AttentionNeed, max_rows: int) -> tuple[int, ...]:
        return ()  # nothing is compiled while it runs

    @staticmethod
    def make_builder(need: AttentionNeed) -> CppBuilder:
        return CppBuilder()

    @staticmethod
    def make_impl(
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        sliding_window: int | None = None,
        logits_soft_cap: float | None = None,
    ) -> CppImpl:
        return CppImpl(num_heads, head_size, scale, num_kv_heads, sliding_window, logits_soft_cap)
