"""Choosing tokens on the GPU: the results of `reference.sample_tokens` and `reference.cutoffs`.

*Choice*: temperature, noise and argmax in one pass over the logits.

Two launches: one program for each (row, chunk of the vocabulary) leaves its best score and token, then one program
for each row takes the best of those. The row's key is made from its seed and position inside the kernel, and the
tables are read by slot there too, so nothing small runs before. Equal scores: the lowest token id wins.

The noise words equal the reference's bit by bit; scores may differ in the last places of `log` (and of a fused
multiply-add), so a token may differ from the reference's only where the two best scores are that close.

*Cut-offs*: no sort. One program a row looks for the lowest float32 value above which there are fewer than k tokens, or
less than p of the mass, by bisection over the bits of that value (they are ordered as the floats are): at most 32
passes over a row that lies in the L2 cache, 16 for bfloat16 logits. The order of every sum depends on the block only, not on the batch.
"""

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import wait_for_predecessor

BLOCK = 4096
_UNUSED_BITS = {torch.bfloat16: 16, torch.float16: 13}  # of a float32 that came from 16 bits


@triton.jit
def _mix(x, key):
    x ^= x >> 17
    x *= 0xED5AD4BB
    x ^= x >> 11
    x += key
    x *= 0xAC4C1B51
    x ^= x >> 15
    x *= 0x31848BAB
    x ^= x >> 14
    return x


@triton.jit
def _row_keys(seed, position):
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    pos = (position & 0xFFFFFFFF).to(tl.uint32)
    zero = tl.zeros_like(low)
    golden0 = zero + 0x9E3779B9
    golden1 = zero + 0x7F4A7C15
    lane0 = _mix(_mix(_mix(low + golden0, zero) ^ high, zero) + pos, zero)
    lane1 = _mix(_mix(_mix(high + golden1, zero) ^ low, zero) + pos, zero)
    return lane0, lane1


@triton.jit
def _gumbel(bits):
    v = ((bits >> 1).to(tl.float32) + 0.5) * 4.656612873077393e-10  # 2**-31
    v = tl.minimum(v, 0.9999999403953552)  # 1 - 2**-24
    near_zero = v * (1.0 + v * (0.5 + v * (0.3333333333333333 + v * 0.25)))
    exponential = tl.where(v < 0.0078125, near_zero, -tl.log(1.0 - v))
    return -tl.log(exponential)


@triton.jit
def _best_of_chunk(
    logits_ptr, slots_ptr, temperature_ptr, seeds_ptr, positions_ptr, cutoff_ptr, best_ptr, token_ptr,
    vocab, row_stride, num_chunks,
    HAS_CUTOFF: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    tokens = chunk * BLOCK + tl.arange(0, BLOCK)
    inside = tokens < vocab
    logits = tl.load(logits_ptr + row * row_stride + tokens, mask=inside, other=float("-inf")).to(tl.float32)
    slot = tl.load(slots_ptr + row)
    temperature = tl.load(temperature_ptr + slot)
    scores = logits
    if temperature > 0:
        lane0, lane1 = _row_keys(tl.load(seeds_ptr + slot), tl.load(positions_ptr + row))
        bits = _mix(tokens.to(tl.uint32) ^ lane0, lane1)
        scores = logits * (1.0 / temperature) + _gumbel(bits)
        if HAS_CUTOFF:
            scores = tl.where(logits >= tl.load(cutoff_ptr + row), scores, float("-inf"))
    scores = tl.where(logits != logits, float("inf"), scores)  # NaN must not hide: it fails the row
    best, at = tl.max(scores, axis=0, return_indices=True)
    out = row * num_chunks + chunk
    tl.store(best_ptr + out, best)
    tl.store(token_ptr + out, chunk * BLOCK + at)


@triton.jit
def _best_of_row(best_ptr, token_ptr, token_ids_ptr, failed_ptr, num_chunks, CHUNKS: tl.constexpr, PDL: tl.constexpr):
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    chunks = tl.arange(0, CHUNKS)
    scores = tl.load(best_ptr + row * num_chunks + chunks, mask=chunks < num_chunks, other=float("-inf"))
    best, at = tl.max(scores, axis=0, return_indices=True)
    tl.store(token_ids_ptr + row, tl.load(token_ptr + row * num_chunks + at).to(tl.int64))
    broken = (best == float("inf")) | (best == float("-inf"))
    tl.store(failed_ptr + row, broken.to(tl.int8))


def sample_tokens(
    logits: torch.Tensor,  # [R, V] float32, float16 or bfloat16
    slots: torch.Tensor,  # [R] int64
    temperature: torch.Tensor,  # [slots] float32
    seeds: torch.Tensor,  # [slots] int64
    positions: torch.Tensor,  # [R] int64
    cutoff: torch.Tensor | None = None,  # [R] float32
    block: int = BLOCK,
) -> tuple[torch.Tensor, torch.Tensor]:
    num_rows, vocab = logits.shape
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    num_chunks = triton.cdiv(vocab, block)
    best = torch.empty(num_rows, num_chunks, dtype=torch.float32, device=logits.device)
    tokens = torch.empty(num_rows, num_chunks, dtype=torch.int32, device=logits.device)
    token_ids = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    failed = torch.empty(num_rows, dtype=torch.int8, device=logits.device)
    _best_of_chunk[(num_rows, num_chunks)](
        logits, slots, temperature, seeds, positions, cutoff if cutoff is not None else best, best, tokens,
        vocab, logits.stride(0), num_chunks,
        HAS_CUTOFF=cutoff is not None, BLOCK=block, num_warps=8, **pdl.options(logits.device),
    )  # fmt: skip
    _best_of_row[(num_rows,)](
        best,
        tokens,
        token_ids,
        failed,
        num_chunks,
        CHUNKS=triton.next_power_of_2(num_chunks),
        num_warps=1,
        **pdl.options(logits.device),
    )
    return token_ids, failed.view(torch.bool)


@triton.jit
def _flip(bits):
    """float32 bits <-> int32 that is ordered as the float is."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _key_of(value, SHIFT: tl.constexpr):
    return _flip(value.to(tl.int32, bitcast=True)).to(tl.int64) >> SHIFT


@triton.jit
def _value_of(key, SHIFT: tl.constexpr):
    """The largest value of this key; SHIFT: low bits that no logit uses, since 16-bit numbers have fewer."""
    bits = key << SHIFT
    bits = tl.where(key < 0, bits | ((1 << SHIFT) - 1), bits)
    return _flip(bits.to(tl.int32)).to(tl.float32, bitcast=True)


@triton.jit
def _count_above(row_ptr, vocab, edge, BLOCK: tl.constexpr):
    counts = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, vocab, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
        counts += (logits > edge).to(tl.int32)
    return tl.sum(counts, axis=0)


@triton.jit
def _mass_above(row_ptr, vocab, edge, best, inverse, OR_EQUAL: tl.constexpr, BLOCK: tl.constexpr):
    mass = tl.zeros([BLOCK], tl.float32)
    for begin in range(0, vocab, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        logits = tl.load(row_ptr + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
        if OR_EQUAL:
            inside = logits >= edge
        else:
            inside = logits > edge
        mass += tl.where(inside, tl.exp((logits - best) * inverse), 0.0)
    return tl.sum(mass, axis=0)


@triton.jit
def _cutoff_of_row(
    logits_ptr, slots_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, cutoff_ptr, vocab, row_stride,
    SHIFT: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots_ptr + row)
    temperature = tl.load(temperature_ptr + slot)
    top_k = tl.load(top_k_ptr + slot)
    top_p = tl.load(top_p_ptr + slot)
    min_p = tl.load(min_p_ptr + slot)
    floor = tl.full([], float("-inf"), tl.float32)
    if (temperature > 0) & ((top_k > 0) | (top_p < 1.0) | (min_p > 0)):
        row_ptr = logits_ptr + row * row_stride
        highest = tl.full([BLOCK], float("-inf"), tl.float32)
        for begin in range(0, vocab, BLOCK):
            at = begin + tl.arange(0, BLOCK)
            logits = tl.load(row_ptr + at, mask=at < vocab, other=float("-inf")).to(tl.float32)
            highest = tl.maximum(highest, logits)
        best = tl.max(highest, axis=0)
        if min_p > 0:
            floor = best + tl.log(min_p) * temperature
        if (top_k > 0) & (top_k < vocab):
            low = _key_of(floor, SHIFT)
            high = _key_of(best, SHIFT)
            while low < high:
                middle = low + ((high - low) >> 1)
                if _count_above(row_ptr, vocab, _value_of(middle, SHIFT), BLOCK) < top_k:
                    high = middle
                else:
                    low = middle + 1
            floor = tl.maximum(floor, _value_of(high, SHIFT))
        if top_p < 1.0:
            inverse = 1.0 / temperature
            wanted = _mass_above(row_ptr, vocab, floor, best, inverse, True, BLOCK) * top_p
            low = _key_of(floor, SHIFT)
            high = _key_of(best, SHIFT)
            while low < high:
                middle = low + ((high - low) >> 1)
                if _mass_above(row_ptr, vocab, _value_of(middle, SHIFT), best, inverse, False, BLOCK) < wanted:
                    high = middle
                else:
                    low = middle + 1
            floor = tl.maximum(floor, _value_of(high, SHIFT))
    tl.store(cutoff_ptr + row, floor)


def cutoffs(
    logits: torch.Tensor,  # [R, V] float32, float16 or bfloat16
    slots: torch.Tensor,  # [R] int64
    temperature: torch.Tensor,  # [slots] float32
    top_k: torch.Tensor,  # [slots] int64
    top_p: torch.Tensor,  # [slots] float32
    min_p: torch.Tensor,  # [slots] float32
    block: int = BLOCK,
) -> torch.Tensor:
    """[R] float32: the lowest logit that each row may choose, -inf for rows without a limit."""
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    found = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
    _cutoff_of_row[(logits.shape[0],)](
        logits, slots, temperature, top_k, top_p, min_p, found, logits.shape[1], logits.stride(0),
        SHIFT=_UNUSED_BITS.get(logits.dtype, 0), BLOCK=block, num_warps=16, **pdl.options(logits.device),
    )  # fmt: skip
    return found
