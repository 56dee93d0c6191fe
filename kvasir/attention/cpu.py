"""The CPU backend: torch's fused attention kernel over views of the cache where it can, over gathered copies elsewhere.

Cache layout [N, S, 2, K, D]: a token's keys and values of all heads are neighbours, so that the cache is a flat list of
token rows. A sequence whose blocks lie one after another (the usual case while the pool is fresh) is read in place; any
other is gathered token by token with one index_select for keys and values together, exactly as long as it is.

Query heads that share a KV head become the kernel's "heads" over one KV "batch" entry (prefill) or its query rows
(decode), so that keys and values are never repeated in memory.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from kvasir.attention.backend import AttentionNeed, GraphSupport
from kvasir.attention.cpu_plan import CpuBuilder, CpuMetadata, DecodeGroup, PrefillRow
from kvasir.attention.transform import QKTransform

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True)
class CpuImpl:
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
        kv_cache: torch.Tensor,  # [N, S, 2, K, D]
        metadata: CpuMetadata,
        transform: QKTransform | None = None,
        last: torch.Tensor | None = None,
    ) -> torch.Tensor:  # [T, H, D]; with `last` [B, H, D]
        output = self._forward(query, key, value, kv_cache, metadata, transform)
        return output if last is None else output[last]

    def _forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        kv_cache: torch.Tensor,
        metadata: CpuMetadata,
        transform: QKTransform | None,
    ) -> torch.Tensor:  # [T, H, D]
        if transform is not None:
            query, key = transform(query, key)
        cache = kv_cache.flatten(0, 1)  # [N * S, 2, K, D]
        self._write(cache, key, value, metadata)
        plan = metadata.plan(self.sliding_window)
        if plan.one_group_in_order:
            return self._decode(query, cache, plan.decodes[0], metadata).reshape(query.shape)
        output = (torch.zeros if plan.leaves_gaps else torch.empty)(query.shape, dtype=query.dtype)
        for group in plan.decodes:
            rows = self._decode(query[group.tokens], cache, group, metadata)
            output[group.tokens] = rows.reshape(-1, self.num_heads, self.head_size)
        for row in plan.prefills:
            self._prefill(query, key, value, cache, row, metadata, output)
        return output

    def _write(self, cache: torch.Tensor, key: torch.Tensor, value: torch.Tensor, metadata: CpuMetadata) -> None:
        if metadata.write_tokens is not None:
            key, value = key[metadata.write_tokens], value[metadata.write_tokens]
        cache[:, 0].index_copy_(0, metadata.write_slots, key)
        cache[:, 1].index_copy_(0, metadata.write_slots, value)

    def _decode(
        self, query: torch.Tensor, cache: torch.Tensor, group: DecodeGroup, metadata: CpuMetadata
    ) -> torch.Tensor:  # [R, K, H / K, D]
        rows = metadata.fetch(cache, group.rows).unflatten(0, (group.num_rows, -1))  # [R, C, 2, K, D]
        key, value = rows.unbind(2)  # [R, C, K, D]
        query = query.reshape(group.num_rows, self.num_kv_heads, -1, self.head_size)  # [R, K, H / K, D]
        return self._attend(query, key.transpose(1, 2), value.transpose(1, 2), group.mask)

    def _prefill(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: torch.Tensor,
        row: PrefillRow,
        metadata: CpuMetadata,
        output: torch.Tensor,
    ) -> None:
        if row.rows is None:  # nothing cached: the step's own keys are all there is
            key, value = key[row.begin : row.end], value[row.begin : row.end]  # [C, K, D]
        else:
            key, value = metadata.fetch(cache, row.rows).unbind(1)
        group = self.num_heads // self.num_kv_heads
        for chunk in row.chunks:
            part = query[chunk.begin : chunk.end]  # [L, H, D]
            if chunk.mask is not None:
                part = part.flip(0)  # `chunk.mask` is for the last token first
            part = part.unflatten(1, (self.num_kv_heads, group)).permute(1, 2, 0, 3)  # [K, H / K, L, D]
            keys = key[chunk.first_key : chunk.last_key].transpose(0, 1).unsqueeze(1)  # [K, 1, C, D]
            values = value[chunk.first_key : chunk.last_key].transpose(0, 1).unsqueeze(1)
            keys, values = keys.expand(-1, group, -1, -1), values.expand(-1, group, -1, -1)  # [K, H / K, C, D]
            result = self._attend(part, keys, values, chunk.mask, causal=chunk.mask is None)
            result = result.permute(2, 0, 1, 3).flatten(1, 2)  # [L, H, D]
            output[chunk.begin : chunk.end] = result if chunk.mask is None else result.flip(0)

    def _attend(
        self,
        query: torch.Tensor,  # [B, H', L, D]
        key: torch.Tensor,  # [B, H', C, D]
        value: torch.Tensor,
        mask: torch.Tensor | None,  # broadcasts to [B, H', L, C], added
        causal: bool = False,
    ) -> torch.Tensor:
        if self.logits_soft_cap is None:
            return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=self.scale)
        return self._attend_capped(query, key, value, mask, causal, self.logits_soft_cap)

    def _attend_capped(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor | None,
        causal: bool,
        cap: float,
    ) -> torch.Tensor:
        """torch's kernel has no soft cap: the scores are made in the open, in float32."""
        wide = torch.promote_types(query.dtype, torch.float32)
        scores = torch.matmul(query.to(wide), key.to(wide).transpose(-1, -2))  # [B, H', L, C]
        scores = scores.mul_(self.scale / cap).tanh_().mul_(cap)
        if causal:
            length = scores.shape[-1]
            mask = torch.full((length, length), float("-inf"), dtype=wide).triu_(1)
        if mask is not None:
            scores = scores.add_(mask)
        return torch.matmul(scores.softmax(dim=-1), value.to(wide)).to(query.dtype)


class CpuBackend:
    name = "cpu"
    graph_support = GraphSupport.NEVER

    @staticmethod
    def supports(need: AttentionNeed) -> str | None:
        if need.device != "cpu":
            return f"it runs on CPU only, the device is {need.device}"
        if need.dtype not in _DTYPES:
            return f"dtype {need.dtype} is none of {', '.join(str(d) for d in _DTYPES)}"
        return None

    @staticmethod
    def kv_cache_shape(num_blocks: int, block_size: int, num_kv_heads: int, head_size: int) -> tuple[int, ...]:
        return (num_blocks, block_size, 2, num_kv_heads, head_size)

    @staticmethod
    def decode_kinds(need: AttentionNeed, max_rows: int) -> tuple[int, ...]:
        return ()  # nothing is compiled while it runs

    @staticmethod
    def make_builder(need: AttentionNeed) -> CpuBuilder:
        row_bytes = 2 * need.num_kv_heads * need.head_size * need.dtype.itemsize
        return CpuBuilder(need.block_size, need.dtype, row_bytes, need.soft_cap)

    @staticmethod
    def make_impl(
        num_heads: int,
        head_size: int,
        scale: float,
        num_kv_heads: int,
        sliding_window: int | None = None,
        logits_soft_cap: float | None = None,
    ) -> CpuImpl:
        return CpuImpl(num_heads, head_size, scale, num_kv_heads, sliding_window, logits_soft_cap)
