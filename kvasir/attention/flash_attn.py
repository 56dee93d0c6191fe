"""The Triton backend with prompts computed by flash-attn-4 (CuTe DSL), which reads the paged cache in place.

Optional: `pip install 'kvasir-llm[flash-attn-4]'`. The library compiles a kernel in some seconds at its first use,
which is the worker's first synthetic step. Decode rows, cache writes and captured steps stay with our own kernels.
"""

from dataclasses import dataclass

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed
from kvasir.attention.prefill import LastRows, not_installed, refuses_shape
from kvasir.attention.triton import TritonBackend, TritonBuilder

_HEAD_SIZES = (64, 128)
_BLOCK_SIZES = (16, 32, 64)
"""Blocks as large as its tile of keys (128) are read whole by the library, and what lies behind a row's end there must
not be NaN; a block that was another request's may hold anything."""


@dataclass(frozen=True)
class PagedRows:
    """What the library is told of a step's last rows, R of them with T tokens; tensors are int32 on the device."""

    query_start_loc: torch.Tensor  # [R + 1], from the first of these rows' tokens on
    seq_lens: torch.Tensor  # [R]
    block_table: torch.Tensor  # [R, blocks of the longest]
    max_query_len: int
    max_seq_len: int

    @classmethod
    def of(cls, batch: AttentionBatch, rows: LastRows, block_size: int) -> "PagedRows":
        first, last = rows.first_row, rows.first_row + len(rows.lens)
        longest = max(context + query for context, query in rows.lens)
        table = batch.block_table[:, : -(-longest // block_size)]
        return cls(
            batch.query_start_loc[first : last + 1] - rows.first_token,
            batch.seq_lens[first:last],
            table[batch.table_rows[first:last]],
            max(query for _, query in rows.lens),
            longest,
        )


class FlashAttnPrefill:
    name = "flash-attn-4"
    min_query = 2
    margin = 0

    def __init__(self, block_size: int):
        self._block_size = block_size

    @staticmethod
    def refusal(need: AttentionNeed) -> str | None:
        if not (9, 0) <= need.capability < (12, 0):
            major, minor = need.capability
            return f"it reads paged caches on compute capability 9.0 to 11.x, this is {major}.{minor}"
        if need.block_size not in _BLOCK_SIZES:
            return f"block size {need.block_size} is none of {', '.join(map(str, _BLOCK_SIZES))}"
        return refuses_shape(
            need.head_size, _HEAD_SIZES, need.dtype, need.sliding_window, need.soft_cap
        ) or not_installed("flash_attn.cute", "flash-attn-4", "flash-attn-4")

    def plan(self, batch: AttentionBatch, rows: LastRows) -> PagedRows:
        return PagedRows.of(batch, rows, self._block_size)

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        batch: AttentionBatch,
        rows: LastRows,
        plan: PagedRows,
        scale: float,
        output: torch.Tensor,
    ) -> None:
        # Its public functions cannot be told where to write, and a copy of the output is a fifth of a short step.
        from flash_attn.cute.interface import _flash_attn_fwd

        tokens = slice(rows.first_token, rows.first_token + rows.num_tokens)
        _flash_attn_fwd(
            query[tokens],
            key_cache,
            value_cache,
            cu_seqlens_q=plan.query_start_loc,
            seqused_k=plan.seq_lens,
            max_seqlen_q=plan.max_query_len,
            max_seqlen_k=plan.max_seq_len,
            page_table=plan.block_table,
            softmax_scale=scale,
            causal=True,
            out=output[tokens],
        )


class FlashAttnBackend(TritonBackend):
    name = "flash_attn"

    @staticmethod
    def supports(need: AttentionNeed) -> str | None:
        return TritonBackend.supports(need) or FlashAttnPrefill.refusal(need)

    @staticmethod
    def make_builder(need: AttentionNeed) -> TritonBuilder:
        return TritonBuilder(need, FlashAttnPrefill(need.block_size))
