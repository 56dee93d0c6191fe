"""SEAM: an attention backend is a name, a layout for the KV cache, a metadata builder and an implementation.

Legend: R requests, T tokens of the step, H query heads, K KV heads, D head size, N blocks, S block size.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from kvasir.attention.transform import QKTransform


class GraphSupport(enum.Enum):
    """In which steps a backend's launches may be captured, since they read all that changes from the device."""

    NEVER = 0
    DECODE = 1
    ALWAYS = 2


@dataclass(frozen=True)
class AttentionNeed:
    """What a model on a device asks of a backend; the selector shows it to each candidate.

    Attributes:
        device: "cpu" or "cuda".
        dtype: of queries and of the KV cache.
        capability: (major, minor) of the card; (0, 0) elsewhere.
    """

    device: str
    dtype: torch.dtype
    head_size: int
    num_heads: int
    num_kv_heads: int
    block_size: int
    sliding_window: bool = False
    soft_cap: bool = False
    capability: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class AttentionBatch:
    """The shape of one ragged step, as every backend's builder receives it. Rows come by rising query length.

    Device tensors (the worker's device):
        query_start_loc: [R + 1] int32, cumulative query lengths; row r owns tokens [r, r + 1).
        seq_lens: [R] int32, tokens of each row after this step (cached + query).
        block_table: [M, max_blocks] int32, KV block ids in order, of all request slots.
        table_rows: [R] int64, the row of `block_table` that each row of the step reads.
        slot_mapping: [T] int64, block * S + offset where each token's key and value go; -1 = nowhere.
    Host numbers (upper bounds where a graph pads):
        num_decodes: rows with one query token, which are the first rows; None: only the device knows (a captured step).
        shared_len: [1] int32 on the device, in a step of decode rows only: so many tokens, a multiple of S, lie in the
            same blocks in all rows, so that a backend may read them once; None: not looked for.
        last_rows: [B] int64 on the device, rows whose last token's output is all that is wanted of the last layer;
            None: everything is.
        query_lens, context_lens: the same lengths as lists on the host; seq_len = context_len + query_len.
    """

    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    table_rows: torch.Tensor
    slot_mapping: torch.Tensor
    num_reqs: int
    num_tokens: int
    num_decodes: int | None
    max_query_len: int
    max_seq_len: int
    query_lens: list[int]
    context_lens: list[int]
    shared_len: torch.Tensor | None = None
    last_rows: torch.Tensor | None = None


class MetadataBuilder(Protocol):
    """Turns a batch into what the backend's kernels read; built once a step and shared by all layers."""

    def build(self, batch: AttentionBatch) -> Any: ...


class AttentionImpl(Protocol):
    """One layer's attention. Transforms queries and keys, writes keys and values into the cache, then attends."""

    def forward(
        self,
        query: torch.Tensor,  # [T, H, D]
        key: torch.Tensor,  # [T, K, D]
        value: torch.Tensor,  # [T, K, D]
        kv_cache: torch.Tensor,  # of `kv_cache_shape`
        metadata: Any,
        transform: QKTransform | None = None,
        last: torch.Tensor | None = None,  # [B] int64, the last tokens of the batch's `last_rows`
    ) -> torch.Tensor:  # [T, H, D]; with `last` [B, H, D], of those tokens
        ...


class AttentionBackend(Protocol):
    name: str
    graph_support: GraphSupport

    @staticmethod
    def supports(need: AttentionNeed) -> str | None:
        """None when it fits, else the reason why not, in words."""
        ...

    @staticmethod
    def kv_cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_size: int) -> tuple[int, ...]: ...

    @staticmethod
    def decode_kinds(need: AttentionNeed, max_rows: int) -> Sequence[int]:
        """Numbers of decode rows, up to `max_rows`, that together launch every variant of its kernels for such rows."""
        ...

    @staticmethod
    def make_builder(need: AttentionNeed) -> MetadataBuilder: ...

    @staticmethod
    def make_impl(
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        sliding_window: int | None = None,
        logits_soft_cap: float | None = None,
    ) -> AttentionImpl:
        """sliding_window w: a token sees itself and the w - 1 before it (transformers' meaning)."""
        ...
