"""The Triton backend: prefill and decode rows of one ragged step over the paged cache, on CUDA cards since Ampere.

Cache layout [N, 2, K, S, D]. One block is one contiguous piece of memory with its keys and values, so that moving a
block (swap, transfer) is one copy; within it the S tokens of one head lie together, so that a program, which reads
one KV head, reads runs of S * D elements instead of a row here and a row there.

Prompts go to a kernel in CUDA C++ on Hopper (`hopper_prefill.py`), long ones to cuDNN where that one does not serve
(`long_prefill.py`); backends that differ from this one in who computes
prompts are made of it (`flash_attn.py`, `flashinfer.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed, GraphSupport
from kvasir.attention.hopper_prefill import HopperPrefill
from kvasir.attention.long_prefill import CudnnPrefill
from kvasir.attention.prefill import Prefill, PrefillProvider, ProvidedRows
from kvasir.attention.transform import QKTransform
from kvasir.ops.target import target_of
from kvasir.ops.triton.kv_write import reshape_and_cache
from kvasir.ops.triton.paged_attention import decode_kinds, paged_attention, tickets
from kvasir.ops.triton.rope_and_cache import rope_and_cache

_BLOCK_SIZES = (16, 32, 64, 128)
_MAX_HEAD_SIZE = 256


def cache_views(kv_cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, 2, K, S, D] -> key and value views [N, S, K, D], as the ops want them."""
    return kv_cache[:, 0].transpose(1, 2), kv_cache[:, 1].transpose(1, 2)


@dataclass(frozen=True)
class TritonMetadata:
    """The batch, whose device tensors the kernels read themselves.

    Attributes:
        provided: rows that somebody else's kernel does, if there are any.
        last: the rows whose last tokens are all that is wanted of the last layer, as a step of decode rows.
    """

    batch: AttentionBatch
    provided: ProvidedRows | None = None
    last: AttentionBatch | None = None


class TritonBuilder:
    def __init__(self, need: AttentionNeed, provider: PrefillProvider | None):
        tickets(torch.empty(0, device=need.device).device)  # with its number, as the launches will ask
        self._prefill = Prefill(provider)

    def build(self, batch: AttentionBatch) -> TritonMetadata:
        return TritonMetadata(batch, self._prefill.take(batch), _last_tokens(batch))


def _default_provider(need: AttentionNeed) -> PrefillProvider | None:
    """The faster one of those that serve here; nothing has to be installed for either."""
    if HopperPrefill.refusal(need) is None:
        return HopperPrefill(need)
    return CudnnPrefill() if CudnnPrefill.refusal(need) is None else None


def _last_tokens(batch: AttentionBatch) -> AttentionBatch | None:
    """To a query that is its row's last token, the row looks as it would in decoding."""
    rows = batch.last_rows
    if rows is None:
        return None
    count = rows.shape[0]
    return replace(
        batch,
        query_start_loc=torch.arange(count + 1, dtype=torch.int32, device=rows.device),
        seq_lens=batch.seq_lens[rows],
        table_rows=batch.table_rows[rows],
        num_reqs=count,
        num_tokens=count,
        num_decodes=count,
        max_query_len=1,
        query_lens=[],
        context_lens=[],
    )


@dataclass(frozen=True)
class TritonImpl:
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
        metadata: TritonMetadata,
        transform: QKTransform | None = None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:  # [T, H, D]; with `last` [B, H, D]
        key_cache, value_cache = cache_views(kv_cache)
        batch = metadata.batch
        provided = metadata.provided if last is None else None
        margin = 0 if provided is None else provided.provider.margin
        room = torch.empty(margin + query.shape[0] + margin, *query.shape[1:], dtype=query.dtype, device=query.device)
        turned = room[margin : margin + query.shape[0]]
        if transform is None:
            reshape_and_cache(key, value, key_cache, value_cache, batch.slot_mapping)
            if margin:
                turned.copy_(query)
            else:
                room = turned = query
        else:
            rope_and_cache(
                transform.positions, query, key, value, transform.cos_sin, key_cache, value_cache, batch.slot_mapping,
                transform.query_weight, transform.key_weight, transform.eps, turned,
            )  # fmt: skip
        if last is not None:
            assert metadata.last is not None
            turned, batch = turned[last], metadata.last
        output = torch.empty(turned.shape, dtype=query.dtype, device=query.device)
        if provided is not None and not provided.attend(room, key_cache, value_cache, batch, self.scale, output):
            provided = None
        paged_attention(
            turned,
            key_cache,
            value_cache,
            batch.query_start_loc,
            batch.seq_lens,
            batch.block_table,
            batch.table_rows,
            self.scale,
            num_decodes=batch.num_decodes,
            sliding_window=self.sliding_window,
            soft_cap=self.logits_soft_cap,
            output=output,
            only=None if provided is None else (provided.rows.first_row, provided.rows.first_token),
            shared_len=batch.shared_len if self.sliding_window is None else None,
        )
        return output


class TritonBackend:
    name = "triton"
    graph_support = GraphSupport.ALWAYS

    @staticmethod
    def supports(need: AttentionNeed) -> str | None:
        if need.device != "cuda":
            return f"it runs on CUDA only, the device is {need.device}"
        if need.capability < (8, 0):
            return f"it needs compute capability 8.0, the card has {need.capability[0]}.{need.capability[1]}"
        if need.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            return f"dtype {need.dtype} is not float16, bfloat16 or float32"
        if need.block_size not in _BLOCK_SIZES:
            return f"block size {need.block_size} is none of {', '.join(map(str, _BLOCK_SIZES))}"
        if need.head_size > _MAX_HEAD_SIZE or need.head_size % 8:
            return f"head size {need.head_size} is not a multiple of 8 up to {_MAX_HEAD_SIZE}"
        return None

    @staticmethod
    def kv_cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_size: int) -> tuple[int, ...]:
        return (num_blocks, 2, num_kv_heads, block_size, head_size)

    @staticmethod
    def decode_kinds(need: AttentionNeed, max_rows: int) -> Sequence[int]:
        processors = target_of(torch.device(need.device)).processors
        return decode_kinds(need.head_size, need.dtype, need.num_kv_heads, processors, max_rows)

    @staticmethod
    def make_builder(need: AttentionNeed) -> TritonBuilder:
        return TritonBuilder(need, _default_provider(need))

    @staticmethod
    def make_impl(
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        sliding_window: int | None = None,
        logits_soft_cap: float | None = None,
    ) -> TritonImpl:
        return TritonImpl(num_heads, head_size, scale, num_kv_heads, sliding_window, logits_soft_cap)
