"""Random ragged steps over a paged cache, the same step laid out for any backend, and a float64 oracle."""

from dataclasses import dataclass, replace

import torch

from kvasir.attention.backend import AttentionBackend, AttentionBatch, AttentionNeed
from kvasir.ops.reference.paged_attention import attend, visible


@dataclass(frozen=True)
class Shape:
    num_heads: int = 4
    num_kv_heads: int = 2
    head_size: int = 32
    block_size: int = 16


@dataclass(frozen=True)
class Step:
    """One step: per row all keys and values of its sequence so far, of which the last query_len are new."""

    shape: Shape
    batch: AttentionBatch
    query: torch.Tensor  # [T, H, D]
    keys: list[torch.Tensor]  # per row [seq_len, K, D]
    values: list[torch.Tensor]
    num_blocks: int

    def new(self, rows: list[torch.Tensor]) -> torch.Tensor:  # [T, K, D]
        parts = [rows[r][c:] for r, c in enumerate(self.batch.context_lens)]
        padding = self.query.shape[0] - sum(p.shape[0] for p in parts)
        return torch.cat([*parts, torch.randn(padding, *parts[0].shape[1:], dtype=self.query.dtype)])


def make_step(
    lens: list[tuple[int, int]],  # (context, query) per row; query 1 first; (0, 0) is a padded row
    shape: Shape,
    dtype: torch.dtype,
    seed: int,
    *,
    fragmented: bool = True,
    padded_tokens: int = 0,
) -> Step:
    generator = torch.Generator().manual_seed(seed)

    def randn(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator).to(dtype)

    size = shape.block_size
    needed = [-(-(c + q) // size) for c, q in lens]
    num_blocks = sum(needed) + 3
    order = torch.randperm(num_blocks, generator=generator) if fragmented else torch.arange(num_blocks)
    block_table = torch.zeros(len(lens), max([1, *needed]) + 1, dtype=torch.int32)
    used = 0
    slots = []
    for row, ((context, query), count) in enumerate(zip(lens, needed, strict=True)):
        blocks = order[used : used + count]
        used += count
        block_table[row, :count] = blocks.int()
        positions = torch.arange(context, context + query)
        slots.append(blocks[positions // size] * size + positions % size)
    slots.append(torch.full((padded_tokens,), -1))
    query_lens = [q for _, q in lens]
    starts = torch.tensor([0, *query_lens]).cumsum(0)
    num_decodes = next((i for i, q in enumerate(query_lens) if q > 1), len(lens))
    batch = AttentionBatch(
        query_start_loc=starts.int(),
        seq_lens=torch.tensor([c + q for c, q in lens], dtype=torch.int32),
        block_table=block_table,
        table_rows=torch.arange(len(lens)),
        slot_mapping=torch.cat(slots).long(),
        num_reqs=len(lens),
        num_tokens=sum(query_lens) + padded_tokens,
        num_decodes=num_decodes,
        max_query_len=max(query_lens),
        max_seq_len=max(c + q for c, q in lens),
        query_lens=query_lens,
        context_lens=[c for c, _ in lens],
    )
    return Step(
        shape,
        batch,
        randn(batch.num_tokens, shape.num_heads, shape.head_size),
        [randn(c + q, shape.num_kv_heads, shape.head_size) for c, q in lens],
        [randn(c + q, shape.num_kv_heads, shape.head_size) for c, q in lens],
        num_blocks,
    )


ORACLE_SCORES = 1 << 24  # scores held at once, so that a row of thousands of tokens fits anywhere


def expected(step: Step, scale: float, window: int | None = None, cap: float | None = None) -> torch.Tensor:
    """[T, H, D] float64: what any backend must compute, without a cache or a batch; on a card where there is one."""
    output = torch.zeros(step.query.shape, dtype=torch.float64)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = 0
    for row, query_len in enumerate(step.batch.query_lens):
        if query_len == 0:
            continue
        key, value = step.keys[row].to(device).double(), step.values[row].to(device).double()
        mask = visible(query_len, key.shape[0], window, device)
        query = step.query[start : start + query_len].to(device).double()
        size = max(1, ORACLE_SCORES // (query.shape[1] * key.shape[0]))
        for part in range(0, query_len, size):
            rows = slice(part, min(part + size, query_len))
            answer = attend(query[rows], key, value, mask[rows], scale, cap)
            output[start + rows.start : start + rows.stop] = answer.cpu()
        start += query_len
    return output


def fill_cache(step: Step, key_cache: torch.Tensor, value_cache: torch.Tensor) -> None:
    """Writes the context of every row (not the new tokens) through [N, S, K, D] views of a backend's cache."""
    size = step.shape.block_size
    for row, context in enumerate(step.batch.context_lens):
        positions = torch.arange(context)
        blocks = step.batch.block_table[row].cpu().long()[positions // size]
        slots = (blocks, positions % size)
        device = key_cache.device
        index = tuple(s.to(device) for s in slots)
        key_cache[index] = step.keys[row][:context].to(device)
        value_cache[index] = step.values[row][:context].to(device)


def views(backend_name: str, cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """[N, S, K, D] key and value views of a backend's cache."""
    if backend_name == "cpu":  # [N, S, 2, K, D]
        return cache[:, :, 0], cache[:, :, 1]
    if backend_name in ("triton", "flash_attn", "flashinfer", "cpp"):  # [N, 2, K, S, D]
        return cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
    return cache[0], cache[1]


def need_of(step: Step, device: str, window: int | None, cap: float | None) -> AttentionNeed:
    shape = step.shape
    return AttentionNeed(
        device,
        step.query.dtype,
        shape.head_size,
        shape.num_heads,
        shape.num_kv_heads,
        shape.block_size,
        window is not None,
        cap is not None,
        (9, 0),
    )


def run_backend(
    backend: type[AttentionBackend],
    step: Step,
    scale: float,
    window: int | None = None,
    cap: float | None = None,
    *,
    device: str = "cpu",
    poison: bool = True,
    last: list[int] | None = None,
) -> torch.Tensor:
    """[T, H, D] from a backend; unused slots of the cache hold NaN when `poison` is set.

    With `last`, [B, H, D]: only of the last tokens of those rows.
    """
    shape, batch = step.shape, step.batch
    cache_shape = backend.kv_cache_shape(step.num_blocks, shape.block_size, shape.num_kv_heads, shape.head_size)
    cache = torch.full(cache_shape, float("nan") if poison else 0.0, dtype=step.query.dtype, device=device)
    fill_cache(step, *views(backend.name, cache))
    moved = AttentionBatch(
        **{name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in vars(batch).items()}
    )
    if last is not None:
        moved = replace(moved, last_rows=torch.tensor(last, dtype=torch.int64, device=device))
    need = need_of(step, device, window, cap)
    metadata = backend.make_builder(need).build(moved)
    impl = backend.make_impl(shape.num_heads, shape.head_size, scale, shape.num_kv_heads, window, cap)
    key, value = step.new(step.keys).to(device), step.new(step.values).to(device)
    tokens = None if last is None else moved.query_start_loc[1:][moved.last_rows].long() - 1
    output = impl.forward(step.query.to(device), key, value, cache, metadata, last=tokens)
    assert output.shape[0] == (step.query.shape[0] if last is None else len(last))
    assert output.dtype == step.query.dtype
    return output.cpu()


def random_lens(kind: str, seed: int, longest: int = 150) -> list[tuple[int, int]]:
    """Ragged rows of one kind: decode, prefill, chunk (prefill over cached context), mixed, or padded."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    decodes = [(number(0, longest), 1) for _ in range(number(1, 9))]
    prefills = [(0, number(2, longest)) for _ in range(number(1, 3))]
    chunks = [(number(1, longest), number(2, 70)) for _ in range(number(1, 3))]
    return {
        "decode": decodes,
        "prefill": prefills,
        "chunk": chunks,
        "mixed": decodes + chunks + prefills,
        "padded": [*decodes, (0, 0), (0, 0)],
    }[kind]
