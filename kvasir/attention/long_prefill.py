"""Prefill of long rows by cuDNN, which torch brings along: on an H100 near twice as fast there as our kernel.

cuDNN makes a plan for every new shape, which takes it about 40 ms, so shapes are few: lengths are padded, and what a
chunk sees of its context is cut so that most of it is a multiple of 1,024 keys:

    context   [0, far)            far = context rounded down to 1,024     all queries see all of it
    square    [far, seq_len)      causal; queries for the rest of the context are made up and their results dropped

The two results are put together by their log-sum-exps. Keys and values are copied out of the paged cache first, which
costs a few per cent of the attention itself.
"""

from dataclasses import dataclass

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed
from kvasir.attention.prefill import LastRows, refuses_shape
from kvasir.ops.triton.gather_kv import gather_kv, merge_attention

MIN_QUERY = 2048
"""Query tokens from which it pays."""
MARGIN = 1024
"""Tokens by which a query tensor must be longer than the step, at both ends: made-up queries lie there."""
_HEAD_SIZES = (64, 128)


class CudnnPrefill:
    name = "cuDNN"

    def __init__(self) -> None:
        self.min_query, self.margin = MIN_QUERY, MARGIN

    @staticmethod
    def refusal(need: AttentionNeed) -> str | None:
        if need.capability < (9, 0):
            return f"the card has {need.capability[0]}.{need.capability[1]}; older ones than 9.0 were not measured"
        return refuses_shape(need.head_size, _HEAD_SIZES, need.dtype, need.sliding_window, need.soft_cap)

    def plan(self, batch: AttentionBatch, rows: LastRows) -> None:
        """cuDNN makes its plans itself, at the first use of a shape."""

    def attend(
        self,
        query: torch.Tensor,  # [MARGIN + T + MARGIN, H, D], contiguous
        key_cache: torch.Tensor,  # [N, S, K, D]
        value_cache: torch.Tensor,
        batch: AttentionBatch,
        rows: LastRows,
        plan: None,
        scale: float,
        output: torch.Tensor,  # [T, H, D]
    ) -> None:
        start = rows.first_token
        for index, (context, length) in enumerate(rows.lens):
            _Row(query, start, context, length, scale).attend(
                key_cache, value_cache, batch, rows.first_row + index, output[start : start + length]
            )
            start += length


@dataclass(frozen=True)
class _Row:
    query: torch.Tensor
    start: int  # of the row's tokens in the step
    context: int
    length: int
    scale: float

    def attend(
        self, key_cache: torch.Tensor, value_cache: torch.Tensor, batch: AttentionBatch, row: int, output: torch.Tensor
    ) -> None:
        far = self.context // MARGIN * MARGIN
        made_up = self.context - far  # queries in front, for keys of the context
        near = made_up + self.length
        where = (key_cache, value_cache, batch.block_table, batch.table_rows, row)
        square, lse = self._run(gather_kv(*where, far, near, padded(near)), self.start - made_up, causal=True)
        if far == 0:
            output.copy_(square[made_up:near])
            return
        context, context_lse = self._run(gather_kv(*where, 0, far, far), self.start, causal=False)
        merge_attention(square, lse, made_up, context, context_lse, 0, output)

    def _run(self, kv: torch.Tensor, start: int, causal: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """-> [L, H, D] and its log-sum-exps [H, L], for the queries from `start` (a token of the step) on."""
        length = kv.shape[2] if causal else padded(self.length)
        query = self.query[MARGIN + start : MARGIN + start + length].transpose(0, 1).unsqueeze(0)  # [1, H, L, D]
        output, lse = dense_attention(query, kv[0].unsqueeze(0), kv[1].unsqueeze(0), causal, self.scale)
        return output[0].transpose(0, 1).contiguous(), lse[0]


def dense_attention(
    query: torch.Tensor,  # [1, H, L, D]
    key: torch.Tensor,  # [1, K, C, D]
    value: torch.Tensor,  # [1, K, C, D]
    causal: bool,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> [1, H, L, D] and natural log-sum-exps [1, H, L]; causal: query i sees keys 0 to i."""
    result = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, True, 0.0, causal, False, scale=scale
    )
    return result[0], result[1].squeeze(-1)


def padded(length: int) -> int:
    """Up to a multiple of 512, of 1,024 from 4,096 on: at most 1,023 more, and few different values."""
    step = 512 if length <= 4096 else 1024
    return -(-length // step) * step
