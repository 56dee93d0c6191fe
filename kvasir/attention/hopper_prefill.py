"""Prompts by our CUDA kernel for Hopper (`csrc/cuda/prefill_attention.cu`), which reads the paged cache in place."""

from dataclasses import dataclass

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed
from kvasir.attention.prefill import LastRows, refuses_shape
from kvasir.ops.cuda import kernel
from kvasir.ops.cuda.prefill_attention import BLOCK_SIZES, HEAD_SIZES, ROWS, prefill_attention, tiles_of
from kvasir.ops.target import Target

MIN_QUERY = 64
"""Query tokens from which it beats the Triton kernel."""


@dataclass(frozen=True)
class PromptRows:
    """What the kernel is told of a step's last rows, R of them."""

    query_start_loc: torch.Tensor  # [R + 1] int32
    seq_lens: torch.Tensor  # [R] int32
    table_rows: torch.Tensor  # [R] int64
    num_tiles: int


class HopperPrefill:
    name = "csrc/cuda/prefill_attention.cu"
    margin = 0

    def __init__(self, need: AttentionNeed):
        self.min_query = MIN_QUERY
        self._group = need.num_heads // need.num_kv_heads

    @staticmethod
    def refusal(need: AttentionNeed) -> str | None:
        reason = kernel.refusal(Target(need.device, need.capability))
        if reason is not None:
            return reason
        if need.block_size not in BLOCK_SIZES or need.num_heads // need.num_kv_heads > ROWS:
            return f"blocks of {need.block_size} tokens, {need.num_heads} heads on {need.num_kv_heads}"
        return refuses_shape(need.head_size, HEAD_SIZES, need.dtype, need.sliding_window, need.soft_cap)

    def plan(self, batch: AttentionBatch, rows: LastRows) -> PromptRows:
        first, last = rows.first_row, rows.first_row + len(rows.lens)
        return PromptRows(
            batch.query_start_loc[first : last + 1],
            batch.seq_lens[first:last],
            batch.table_rows[first:last],
            tiles_of([query for _, query in rows.lens], self._group),
        )

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        batch: AttentionBatch,
        rows: LastRows,
        plan: PromptRows,
        scale: float,
        output: torch.Tensor,
    ) -> None:
        prefill_attention(
            query,
            key_cache,
            value_cache,
            plan.query_start_loc,
            plan.seq_lens,
            batch.block_table,
            plan.table_rows,
            plan.num_tiles,
            scale,
            output,
        )
