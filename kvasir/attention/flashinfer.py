"""The Triton backend with prompts computed by FlashInfer, which reads the paged cache in place.

Optional: `pip install 'kvasir-llm[flashinfer]'`. The library compiles its kernels with nvcc at their first use, which
is the worker's first synthetic step, and keeps them on disk. Decode rows, cache writes and captured steps stay with
our own kernels.
"""

from typing import Any

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed
from kvasir.attention.prefill import LastRows, not_installed, refuses_shape
from kvasir.attention.triton import TritonBackend, TritonBuilder

_HEAD_SIZES = (64, 128, 256)
_WORKSPACE_BYTES = 128 << 20  # what its documentation recommends


class FlashInferPrefill:
    name = "FlashInfer"
    min_query = 2
    margin = 0

    def __init__(self, need: AttentionNeed):
        self._need = need
        self._wrapper: Any = None
        self._copied: torch.cuda.Event | None = None

    @staticmethod
    def refusal(need: AttentionNeed) -> str | None:
        return refuses_shape(
            need.head_size, _HEAD_SIZES, need.dtype, need.sliding_window, need.soft_cap
        ) or not_installed("flashinfer", "FlashInfer", "flashinfer")

    def plan(self, batch: AttentionBatch, rows: LastRows) -> Any:
        """The library's wrapper, planned for these rows. It stays right for this step when the next one is planned:
        its kernels are launched by then, and copies to the device come in the stream's order."""
        need, device = self._need, batch.block_table.device
        if self._wrapper is None:
            from flashinfer import BatchPrefillWithPagedKVCacheWrapper

            workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
            self._wrapper = BatchPrefillWithPagedKVCacheWrapper(workspace, "HND")
        if self._copied is not None:  # it plans in a buffer from which the last plan must have been copied
            self._copied.synchronize()
        lens, size = rows.lens, need.block_size
        blocks = torch.tensor([-(-(context + query) // size) for context, query in lens])
        self._wrapper.plan(
            _starts(torch.tensor([query for _, query in lens])),
            _starts(blocks),
            _blocks_in_order(batch, rows, blocks),
            torch.tensor([(context + query - 1) % size + 1 for context, query in lens], dtype=torch.int32),
            num_qo_heads=need.num_heads,
            num_kv_heads=need.num_kv_heads,
            head_dim_qk=need.head_size,
            page_size=size,
            causal=True,
            q_data_type=need.dtype,
        )
        if device.type == "cuda":
            self._copied = self._copied or torch.cuda.Event()
            self._copied.record()
        return self._wrapper

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        batch: AttentionBatch,
        rows: LastRows,
        plan: Any,
        scale: float,
        output: torch.Tensor,
    ) -> None:
        tokens = slice(rows.first_token, rows.first_token + rows.num_tokens)
        caches = key_cache.transpose(1, 2), value_cache.transpose(1, 2)  # [N, K, S, D]
        # The scale is not known when a step is planned, and it is the plan's; a factor of the queries does as well.
        q_scale = scale * query.shape[-1] ** 0.5
        plan.run(query[tokens], caches, q_scale=None if abs(q_scale - 1) < 1e-6 else q_scale, out=output[tokens])


def _starts(lens: torch.Tensor) -> torch.Tensor:
    """[R] -> [R + 1] int32."""
    return torch.cat([lens.new_zeros(1), lens.cumsum(0)]).int()


def _blocks_in_order(batch: AttentionBatch, rows: LastRows, blocks: torch.Tensor) -> torch.Tensor:
    """[sum of `blocks`] int32 on the device: the block ids of each row, one row behind the other."""
    first, width = rows.first_row, int(blocks.max())
    table = batch.block_table[:, :width][batch.table_rows[first : first + len(rows.lens)]]  # [R, width]
    used = torch.arange(width) < blocks[:, None]
    where = used.flatten().nonzero().squeeze(1)  # on the host, where the lengths are: nothing waits for the device
    return table.flatten()[where.to(table.device, non_blocking=True)]


class FlashInferBackend(TritonBackend):
    name = "flashinfer"

    @staticmethod
    def supports(need: AttentionNeed) -> str | None:
        return TritonBackend.supports(need) or FlashInferPrefill.refusal(need)

    @staticmethod
    def make_builder(need: AttentionNeed) -> TritonBuilder:
        return TritonBuilder(need, FlashInferPrefill(need))
