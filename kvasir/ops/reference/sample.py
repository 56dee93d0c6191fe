"""Choosing tokens, in plain torch: the noise, the cut-offs of top-k / top-p / min-p, and the choice itself.

This is the specification of `ops/sample.py` and the CPU path.

*The noise* is a pure function of (request seed, absolute position, token id), so a row draws the same noise
alone or in a batch, in any slot, on any device, before and after a preemption. The hash works on 32-bit words
and is the same bit by bit in torch int32 and in Triton uint32; only `log` may differ in the last place.

*The cut-offs* are one logit value for each row: a token may be chosen when its logit is at least that value.
Stated without any order among equal logits, so equal logits are always treated alike:

- min-p keeps a token whose probability is at least min_p times the best one's;
- top-k keeps a token when fewer than k tokens are strictly more likely;
- top-p keeps a token when the strictly more likely ones (among those kept so far) hold less than p of the mass.

Legend: R requests, V vocabulary, C candidates.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

MAX_GUMBEL = 22.2  # -log(-log1p(-2**-32)) is 22.181: no draw is larger
_CHUNK_ELEMENTS = 1 << 22  # noise is made for so many logits at a time: it bounds the temporaries
_CPU_ELEMENTS = 1 << 18  # the same on CPU, where temporaries should stay in the cache
_CPU_CHUNK = 1 << 14  # and noise for so many candidates under a cut-off
_SORT_ELEMENTS = 1 << 25  # rows are sorted in groups of so many logits: a sort needs about 20 bytes for each
_SMALL_TOP_K = 1024  # up to here `topk` beats a sort on CUDA; on CPU a quarter of the vocabulary
_CPU_NUCLEUS = 512  # first guess on CPU: a nucleus is rarely larger


def _signed(word: int) -> int:
    return word - (1 << 32) if word >= 1 << 31 else word


_M1, _M2, _M3 = _signed(0xED5AD4BB), _signed(0xAC4C1B51), _signed(0x31848BAB)
_LANE0, _LANE1 = _signed(0x9E3779B9), _signed(0x7F4A7C15)


def _xorshift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """x ^= x >> bits with the shift of an unsigned word."""
    return x.bitwise_xor_((x >> bits).bitwise_and_((1 << (32 - bits)) - 1))


def _mix(x: torch.Tensor, key: torch.Tensor | None = None) -> torch.Tensor:
    """A bijection of 32-bit words, in place; `key` is added in the middle."""
    x = _xorshift(x, 17).mul_(_M1)
    x = _xorshift(x, 11)
    if key is not None:
        x = x.add_(key)
    x = _xorshift(x.mul_(_M2), 15).mul_(_M3)
    return _xorshift(x, 14)


def row_keys(seeds: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two 32-bit words for each row from its 64-bit seed and its position ([R] int64 each -> [R] int32 each)."""
    low = (seeds & 0xFFFFFFFF).to(torch.int64)
    high = ((seeds >> 32) & 0xFFFFFFFF).to(torch.int64)
    low, high, pos = _to_word(low), _to_word(high), _to_word(positions & 0xFFFFFFFF)
    lane0 = _mix(_mix(_mix(low + _LANE0) ^ high) + pos)
    lane1 = _mix(_mix(_mix(high + _LANE1) ^ low) + pos)
    return lane0, lane1


def _to_word(x: torch.Tensor) -> torch.Tensor:
    """[..] int64 in 0 .. 2**32 - 1 -> int32 of the same bits."""
    return (x - ((x >> 31) << 32)).to(torch.int32)


def noise_bits(keys: tuple[torch.Tensor, torch.Tensor], token_ids: torch.Tensor) -> torch.Tensor:
    """The hash: keys broadcast against token_ids (int32) -> int32 words."""
    return _mix(token_ids ^ keys[0], keys[1])


def gumbel_from_bits(bits: torch.Tensor) -> torch.Tensor:
    """int32 words -> float32 Gumbel noise.

    The upper 31 bits become v in (0, 1) and the noise is -log(-log(1 - v)): large noise comes from small v, where
    float32 is finest, so the tail that decides a large vocabulary is not grainy.
    """
    v = ((bits >> 1) & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31).clamp_(max=1.0 - 2.0**-24)
    return v.neg_().log1p_().neg_().log_().neg_()


def gumbel(seeds: torch.Tensor, positions: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """seeds, positions [R] int64, token_ids [C] or [R, C] -> [R, C] float32."""
    keys = row_keys(seeds, positions)
    return gumbel_from_bits(noise_bits((keys[0][:, None], keys[1][:, None]), token_ids.to(torch.int32)))


def inverse_temperature(temperature: torch.Tensor) -> torch.Tensor:
    """1 / temperature, and 1 for greedy rows (temperature 0)."""
    return torch.where(temperature > 0, 1.0 / temperature, torch.ones_like(temperature))


class _Draw(NamedTuple):
    """The arguments of `sample_tokens`, and where its results go."""

    logits: torch.Tensor
    slots: torch.Tensor
    temperature: torch.Tensor
    seeds: torch.Tensor
    positions: torch.Tensor
    cutoff: torch.Tensor | None
    best: torch.Tensor  # [R] float32
    token_ids: torch.Tensor  # [R] int64


def sample_tokens(
    logits: torch.Tensor,  # [R, V] any float type
    slots: torch.Tensor,  # [R] int64, rows of the two tables below
    temperature: torch.Tensor,  # [slots] float32, 0 = greedy
    seeds: torch.Tensor,  # [slots] int64
    positions: torch.Tensor,  # [R] int64
    cutoff: torch.Tensor | None = None,  # [R] float32, -inf = none
    random_rows: Sequence[int] | None = None,  # rows that are not greedy, when the host knows them
) -> tuple[torch.Tensor, torch.Tensor]:
    """argmax of logits / temperature + noise over the tokens at or above the cut-off.

    Returns:
        token_ids [R] int64 and failed [R] bool: a row is failed when no token is left or its logits hold NaN or +inf.
    """
    num_rows, vocab = logits.shape
    random_rows = range(num_rows) if random_rows is None else random_rows
    if len(random_rows) < num_rows:
        best, token_ids = logits.max(dim=-1)
        best = best.float()
    else:
        best = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
        token_ids = torch.empty(num_rows, dtype=torch.int64, device=logits.device)
    draw = _Draw(logits, slots, temperature, seeds, positions, cutoff, best, token_ids)
    # Without a cut-off most tokens could win, and a dense pass beats gathering them (measured at V 768 to 152k).
    on_cpu = logits.device.type == "cpu"
    draw_rows = _draw_rows_cpu if on_cpu and cutoff is not None else _draw_rows
    step = max(1, (_CPU_ELEMENTS if on_cpu else _CHUNK_ELEMENTS) // vocab)
    for begin in range(0, len(random_rows), step):
        draw_rows(draw, list(random_rows[begin : begin + step]))
    return token_ids, ~torch.isfinite(best)


def _draw_rows(draw: _Draw, rows: list[int]) -> None:
    """Several rows, all tokens, nothing that waits for the device."""
    index: slice | list[int] = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
    logits, slots = draw.logits[index].float(), draw.slots[index]  # [r, V], [r]
    heat = draw.temperature[slots][:, None]
    tokens = torch.arange(logits.shape[1], dtype=torch.int32, device=logits.device)
    noise = gumbel(draw.seeds[slots], draw.positions[index], tokens)
    scores = logits * inverse_temperature(heat) + torch.where(heat > 0, noise, 0.0)
    if draw.cutoff is not None:
        allowed = (heat <= 0) | (logits >= draw.cutoff[index][:, None])
        scores = scores.masked_fill(~allowed, float("-inf"))
    draw.best[index], draw.token_ids[index] = scores.max(dim=-1)


def _draw_rows_cpu(draw: _Draw, rows: list[int]) -> None:
    """Several rows, only the tokens that can win: the same choice as `_draw_rows`, with less noise to make."""
    index = torch.tensor(rows)
    logits = (draw.logits if len(rows) == len(draw.logits) else draw.logits[index]).float()  # [r, V]
    slots = draw.slots[index]
    heat = draw.temperature[slots]
    keys = row_keys(draw.seeds[slots], draw.positions[index])
    top, top_id = logits.max(dim=-1)
    # A token must be so close to the best one that even the largest noise could carry it past the best one's score.
    reach = gumbel_from_bits(noise_bits(keys, top_id.to(torch.int32))) - MAX_GUMBEL - 1e-3
    low = torch.where(heat > 0, top + reach * heat - 1e-5 * top.abs(), top)
    if draw.cutoff is not None:
        low = torch.where(heat > 0, torch.maximum(low, draw.cutoff[index]), low)
    inverse, noisy = inverse_temperature(heat), heat > 0
    near = logits >= low[:, None]  # [r, V]
    row, ids = near.nonzero().unbind(1)  # [C] each, rising
    scores = logits[row, ids].mul_(inverse[row])
    words = ids.to(torch.int32)
    for at in range(0, len(ids), _CPU_CHUNK):
        here = slice(at, at + _CPU_CHUNK)
        r = row[here]
        noise = gumbel_from_bits(noise_bits((keys[0][r], keys[1][r]), words[here]))
        scores[here] += torch.where(noisy[r], noise, 0.0)
    best = torch.full_like(top, float("-inf")).scatter_reduce_(0, row, scores, "amax")
    broken = ~torch.isfinite(top)
    draw.best[index] = torch.where(broken, top, best)
    winners = ids.masked_fill_(scores != best[row], logits.shape[1])  # the lowest id of equal scores wins
    first = torch.full_like(top_id, logits.shape[1]).scatter_reduce_(0, row, winners, "amin")
    draw.token_ids[index] = torch.where(broken | (first == logits.shape[1]), top_id, first)


def cutoffs(
    logits: torch.Tensor,  # [R, V] float32
    temperature: torch.Tensor,  # [R] float32
    top_k: torch.Tensor,  # [R] int64, 0 = off
    top_p: torch.Tensor,  # [R] float32, 1 = off
    min_p: torch.Tensor,  # [R] float32, 0 = off
    max_top_k: int,
    any_top_p: bool,
    any_unlimited_top_p: bool,
) -> torch.Tensor:
    """The lowest logit that each row may choose, [R] float32. The last three are what the host knows of the rows.

    Args:
        max_top_k: largest top_k of the rows, 0 when none asks for it.
        any_unlimited_top_p: whether a row asks for top-p without top-k; only then a whole sort may be needed.
    """
    vocab = logits.shape[1]
    step = max(1, _SORT_ELEMENTS // vocab)
    if logits.shape[0] > step:
        columns = zip(*(t.split(step) for t in (logits, temperature, top_k, top_p, min_p)), strict=True)
        return torch.cat([cutoffs(*part, max_top_k, any_top_p, any_unlimited_top_p) for part in columns])
    best = logits.amax(dim=-1)  # [R]
    floor = torch.where(min_p > 0, best + torch.log(min_p) * temperature, float("-inf"))
    depth = min(max_top_k, vocab)
    if any_unlimited_top_p:
        depth = min(max(depth, _CPU_NUCLEUS), vocab) if logits.device.type == "cpu" else vocab
    if depth == 0:
        return floor
    rows = [logits, best, floor, temperature, top_k, top_p]
    found, complete = _ranked_cutoff(*rows, depth, any_top_p)
    # On CPU the guess is checked, which costs nothing there, and deepened for the rows that need it.
    while any_unlimited_top_p and depth < vocab and not bool(complete.all()):
        depth = min(depth * 32, vocab)
        open_rows = (~complete).nonzero()[:, 0]
        deeper, done = _ranked_cutoff(*(t[open_rows] for t in rows), depth, any_top_p)
        found[open_rows], complete[open_rows] = deeper, done
    return found


def _ranked_cutoff(
    logits: torch.Tensor,
    best: torch.Tensor,
    floor: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    depth: int,
    any_top_p: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut-offs from the `depth` largest logits, and whether those were enough for each row's top-p."""
    limit = _SMALL_TOP_K if logits.device.type == "cuda" else logits.shape[1] // 4
    if depth <= limit:
        ranked = logits.topk(depth, dim=-1).values  # [R, depth] falling
    else:
        ranked = logits.sort(dim=-1, descending=True).values[:, :depth]
    last = (top_k.clamp(min=1, max=depth) - 1)[:, None]
    kth = ranked.gather(1, last)[:, 0]
    floor = torch.where(top_k > 0, torch.maximum(floor, kth), floor)
    if not any_top_p:
        return floor, torch.ones_like(floor, dtype=torch.bool)
    inverse = inverse_temperature(temperature)[:, None]
    # float64 sums: the order of a sum, which follows the batch's shape on a GPU, must not move the border
    kept = (logits - best[:, None]).mul_(inverse).exp_().masked_fill_(logits < floor[:, None], 0.0)
    wanted = kept.sum(dim=-1, dtype=torch.float64) * top_p  # [R]
    mass = (ranked - best[:, None]).mul_(inverse).exp_().masked_fill_(ranked < floor[:, None], 0.0).double()
    through = mass.cumsum(dim=-1)  # [R, depth]
    inside = ((through - mass) < wanted[:, None]) & (mass > 0)
    count = inside.sum(dim=-1, keepdim=True).clamp_(min=1)
    edge = ranked.gather(1, count - 1)[:, 0]
    found = torch.where(top_p < 1.0, torch.maximum(floor, edge), floor)
    complete = (top_p >= 1.0) | (through[:, -1] >= wanted) | (ranked[:, -1] < floor)
    return found, complete
