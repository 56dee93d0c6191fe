"""Paged attention in Triton: a split-KV kernel for decode rows, a tiled kernel for all others, one step = both.

The query heads of one KV head form the rows of one tile (GQA packing), so each key and value is loaded once for
all of them. Nothing in a launch depends on what the rows hold: grids follow from the tensors' shapes, lengths are
read on the device. So a captured launch serves any batch of its shape.
"""

from dataclasses import dataclass
from functools import cache

import torch
import triton

from kvasir.ops.target import target_of
from kvasir.ops.triton import pdl
from kvasir.ops.triton.decode_attention import decode_kernel, shared_prefix_kernel
from kvasir.ops.triton.prefill_attention import prefill_kernel

try:
    from kvasir.ops.triton import prefill_overlap
except ImportError:  # another Triton
    prefill_overlap = None  # type: ignore[assignment]

_LOG2E = 1.4426950408889634
MAX_SPLITS = 32
MERGED_ELEMENTS = 4096
"""Numbers of partial results that the merge holds at a time: 32 registers for each of 128 threads."""
MAX_TICKETS = 1 << 17


@dataclass(frozen=True)
class DecodeConfig:
    """One compiled decode variant; `block_n` keys per tile. `ahead`: the first are asked for beside the kernel before."""

    block_n: int
    num_warps: int
    num_stages: int
    ahead: bool = False


@dataclass(frozen=True)
class PrefillConfig:
    """One compiled prefill variant; `block_m` packed rows (query tokens x heads of a KV head)."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def decode_config(head_size_pad: int, dtype: torch.dtype, programs: int, processors: int) -> DecodeConfig:
    """`programs`: rows times KV heads. Up to four a processor, larger tiles were measured to be faster."""
    if dtype == torch.float32:
        return DecodeConfig(32 if head_size_pad <= 128 else 16, 4, 2)
    if head_size_pad <= 64:
        return DecodeConfig(64, 4, 3)
    if head_size_pad <= 128 and programs <= 4 * processors:
        return DecodeConfig(128, 4, 2, ahead=programs >= processors)
    return DecodeConfig(64 if head_size_pad <= 128 else 32, 4, 2)


def decode_kinds(head_size: int, dtype: torch.dtype, num_kv_heads: int, processors: int, max_rows: int) -> list[int]:
    """The least number of rows for each variant of `decode_kernel` that steps of up to `max_rows` use."""
    head_size_pad = max(16, triton.next_power_of_2(head_size))
    least: dict[DecodeConfig, int] = {}
    for rows in range(1, max_rows + 1):
        least.setdefault(decode_config(head_size_pad, dtype, rows * num_kv_heads, processors), rows)
    return list(least.values())


def prefill_config(head_size_pad: int, dtype: torch.dtype) -> PrefillConfig:
    if dtype == torch.float32:
        return PrefillConfig(32, 32, 4, 2) if head_size_pad <= 128 else PrefillConfig(16, 16, 4, 2)
    if head_size_pad <= 64:
        return PrefillConfig(128, 64, 4, 3)
    if head_size_pad <= 128:
        return PrefillConfig(64, 64, 4, 2)
    return PrefillConfig(128, 32, 8, 2)


def shared_prefix_config(head_size_pad: int, dtype: torch.dtype) -> PrefillConfig:
    """Larger tiles than a prompt's where many rows see the same keys."""
    if dtype != torch.float32 and 64 < head_size_pad <= 128:
        return PrefillConfig(128, 64, 8, 3)
    return prefill_config(head_size_pad, dtype)


def overlap_serves(query: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor) -> bool:
    """Whether `prefill_overlap.py` takes such tensors, where there is neither a window nor a cap."""
    target = target_of(query.device)
    if prefill_overlap is None or target.platform != "cuda" or target.capability[0] != 9:
        return False
    strides = (*query.stride()[:2], *key_cache.stride()[:3], *value_cache.stride()[:3])
    return (
        query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[2] in (64, 128)
        and query.shape[1] // key_cache.shape[2] <= prefill_overlap.BLOCK_M
        and prefill_overlap.BLOCK_N % key_cache.shape[1] == 0
        and all(stride % 16 == 0 for stride in strides)  # 16 bytes at a time, and then as Triton asks about integers
    )


@cache
def tickets(device: torch.device) -> torch.Tensor:
    """[MAX_TICKETS] zeros: how many splits of a (row, KV head) have arrived; each launch leaves zeros behind.

    Must be called once before a launch is captured, since what is made during a capture belongs to that graph.
    """
    return torch.zeros(MAX_TICKETS, dtype=torch.int32, device=device)


def _processors(device: torch.device) -> int:
    return target_of(device).processors or 132  # interpreted


@dataclass(frozen=True)
class SplitPlan:
    """At most `splits` programs share one (row, KV head), and none gets fewer than about `min_split` keys."""

    splits: int
    min_split: int


def split_plan(rows: int, num_kv_heads: int, processors: int) -> SplitPlan:
    """From the batch's shape alone. A few programs for each processor hide the tail of uneven rows.

    When rows and heads fill the card by themselves, only rows far longer than usual are split: a second wave of
    programs costs more than uneven ends.
    """
    programs = rows * num_kv_heads
    if programs > MAX_TICKETS:
        return SplitPlan(1, 1)
    splits = min(MAX_SPLITS, max(4, triton.next_power_of_2(triton.cdiv(8 * processors, programs))))
    if 2 * programs >= 3 * processors:
        return SplitPlan(splits, 2048)
    return SplitPlan(splits, 256 if 4 * programs >= processors else 128)


def shared_plan(pairs: int, num_kv_heads: int, processors: int) -> int:
    """Programs that share the keys of a shared prefix: about two for each processor in all."""
    programs = triton.cdiv(pairs, 128) * num_kv_heads
    return min(MAX_SPLITS, max(1, triton.next_power_of_2(triton.cdiv(2 * processors, programs))))


@dataclass(frozen=True)
class Rows:
    """The rows of a step, as the kernels read them. `shared_len`: [1] int32, keys that all rows begin with."""

    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    table_rows: torch.Tensor
    shared_len: torch.Tensor | None = None


def paged_attention(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    query_start_loc: torch.Tensor,
    seq_lens: torch.Tensor,
    block_table: torch.Tensor,
    table_rows: torch.Tensor,
    scale: float,
    *,
    num_decodes: int | None = 0,
    sliding_window: int | None = None,
    soft_cap: float | None = None,
    output: torch.Tensor | None = None,
    only: tuple[int, int] | None = None,
    shared_len: torch.Tensor | None = None,
) -> torch.Tensor:
    """See the op's face, and:

    Args:
        only: just so many rows, which have so many tokens; the rest of `output` is left as it is.
        shared_len: [1] int32, in a step of decode rows only: so many keys come from the same blocks in all rows.
    """
    if query.stride(-1) != 1:
        query = query.contiguous()
    if output is None:
        output = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    rows, tokens = only if only is not None else (seq_lens.shape[0], query.shape[0])
    batch = Rows(query_start_loc, seq_lens[:rows], block_table, table_rows, shared_len)
    common = _common_arguments(query, key_cache, scale, sliding_window, soft_cap)
    mixed = num_decodes is None
    decodes = rows if num_decodes is None else num_decodes
    if decodes:
        _decode(query, key_cache, value_cache, batch, output, decodes, common, mixed=mixed)
    if mixed or tokens > decodes:  # no rows at all: nothing is launched
        first = 0 if mixed else decodes
        _prefill(query[:tokens], key_cache, value_cache, batch, output, first, common, mixed=mixed)
    return output


def _common_arguments(
    query: torch.Tensor, key_cache: torch.Tensor, scale: float, sliding_window: int | None, soft_cap: float | None
) -> dict[str, object]:
    """Scores are kept in units of log 2, so that exp2 does; a cap is applied before that, hence its own scales."""
    head_size, block_size = query.shape[2], key_cache.shape[1]
    return {
        "score_scale": scale * _LOG2E if soft_cap is None else scale / soft_cap,
        "cap": 0.0 if soft_cap is None else soft_cap * _LOG2E,
        "window": 0 if sliding_window is None else sliding_window,
        "stride_query_token": query.stride(0),
        "stride_query_head": query.stride(1),
        "stride_block": key_cache.stride(0),
        "stride_slot": key_cache.stride(1),
        "stride_head": key_cache.stride(2),
        "G": query.shape[1] // key_cache.shape[2],
        "D": head_size,
        "D_PAD": max(16, triton.next_power_of_2(head_size)),
        "S": block_size,
        "HAS_WINDOW": sliding_window is not None,
        "HAS_CAP": soft_cap is not None,
    }


def _decode(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: Rows,
    output: torch.Tensor,
    rows: int,
    common: dict[str, object],
    config: DecodeConfig | None = None,
    plan: SplitPlan | None = None,
    mixed: bool = False,
) -> None:
    _, num_heads, head_size = query.shape
    num_kv_heads = key_cache.shape[2]
    group, head_size_pad = num_heads // num_kv_heads, max(16, triton.next_power_of_2(head_size))
    processors = _processors(query.device)
    config = config or decode_config(head_size_pad, query.dtype, rows * num_kv_heads, processors)
    plan = plan or split_plan(rows, num_kv_heads, processors)
    shared = batch.shared_len is not None
    shared_splits = shared_plan(rows * group, num_kv_heads, processors) if shared else 0
    parts = plan.splits + shared_splits
    # Allocated here, inside a graph's capture when there is one, so that the graph's own pool keeps them.
    partial = torch.empty(rows, num_heads, parts, head_size, dtype=torch.float32, device=query.device)
    lse = torch.empty(rows, num_heads, parts, dtype=torch.float32, device=query.device)
    shared_config = shared_prefix_config(head_size_pad, query.dtype)
    if shared:
        no_window = {name: value for name, value in common.items() if name not in ("window", "HAS_WINDOW")}
        shared_prefix_kernel[(num_kv_heads, triton.cdiv(rows * group, shared_config.block_m), shared_splits)](
            query,
            key_cache,
            value_cache,
            batch.block_table,
            batch.table_rows,
            batch.shared_len,
            partial,
            lse,
            batch.block_table.stride(0),
            plan.splits,
            shared_splits,
            rows,
            **no_window,
            H=num_heads,
            BLOCK_M=shared_config.block_m,
            BLOCK_N=shared_config.block_n,
            num_warps=shared_config.num_warps,
            num_stages=shared_config.num_stages,
            **pdl.options(query.device),
        )
    group_pad = triton.next_power_of_2(group)
    decode_kernel[(num_kv_heads, rows, plan.splits)](
        query,
        key_cache,
        value_cache,
        batch.query_start_loc,
        batch.seq_lens,
        batch.block_table,
        batch.table_rows,
        output,
        partial,
        lse,
        tickets(query.device),
        batch.shared_len,
        batch.block_table.stride(0),
        plan.splits,
        plan.min_split,
        shared_splits,
        **common,
        H=num_heads,
        BLOCK_M=max(16, group_pad),
        BLOCK_N=config.block_n,
        G_PAD=group_pad,
        MERGE=min(MAX_SPLITS, max(2, MERGED_ELEMENTS // (group_pad * head_size_pad))),
        MIXED=mixed,
        SHARED=shared,
        SHARED_N=shared_config.block_n,
        AHEAD=config.ahead,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **pdl.options(query.device),
    )


def _prefill(
    query: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: Rows,
    output: torch.Tensor,
    first_row: int,
    common: dict[str, object],
    config: PrefillConfig | None = None,
    mixed: bool = False,
) -> None:
    """`config`: a variant of the plain kernel; None: whatever is best for these tensors."""
    tokens, num_heads, head_size = query.shape
    num_kv_heads = key_cache.shape[2]
    group = num_heads // num_kv_heads
    plain = common["HAS_WINDOW"] or common["HAS_CAP"] or config is not None
    overlap = not plain and overlap_serves(query, key_cache, value_cache)
    config = config or prefill_config(max(16, triton.next_power_of_2(head_size)), query.dtype)
    block_m = prefill_overlap.BLOCK_M if overlap else max(config.block_m, triton.next_power_of_2(group))
    block_q = block_m // group
    rows = batch.seq_lens.shape[0] - first_row
    # Each row wastes at most one tile; the tokens after the last row, if any, count as a row of their own.
    tiles = (tokens - first_row) // block_q + rows + 1
    operands = (
        query,
        key_cache,
        value_cache,
        batch.query_start_loc,
        batch.seq_lens,
        batch.block_table,
        batch.table_rows,
        output,
        batch.block_table.stride(0),
        first_row,
        rows,
        tokens,
    )
    constants = {"H": num_heads, "BLOCK_Q": block_q, "BLOCK_M": block_m, "MIXED": mixed}
    if overlap:
        prefill_overlap.prefill_overlap_kernel[(tiles * num_kv_heads,)](
            *operands,
            **{name: value for name, value in common.items() if name in prefill_overlap.ARGUMENTS},
            **constants,
            BLOCK_N=prefill_overlap.BLOCK_N,
            num_warps=prefill_overlap.NUM_WARPS,
            **pdl.options(query.device),
        )
        return
    prefill_kernel[(tiles, num_kv_heads)](
        *operands,
        **common,
        **constants,
        BLOCK_N=config.block_n,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **pdl.options(query.device),
    )
