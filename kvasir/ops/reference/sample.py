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

import torch

MAX_GUMBEL = 22.2  # -log(-log1p(-2**-32)) is 22.181: no draw is larger
_CHUNK_ELEMENTS = 1 << 18  # noise is made for so many logits at a time: temporaries stay in the cache
_SORT_ELEMENTS = 1 << 25  # rows are sorted in groups of so many logits: a sort needs about 20 bytes for each
_SMALL_TOP_K = 1024  # up to here `topk` beats a sort
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
    float32 is finest, so the tail that decides a large vocabulary is not grainy. A series replaces log near 0.
    """
    v = ((bits >> 1) & 0x7FFFFFFF).to(torch.float32).add_(0.5).mul_(2.0**-31).clamp_(max=1.0 - 2.0**-24)
    near_zero = v * (1.0 + v * (0.5 + v * (1.0 / 3.0 + v * 0.25)))
    exponential = torch.where(v < 2.0**-7, near_zero, -torch.log(1.0 - v))
    return exponential.log_().neg_()


def gumbel(seeds: torch.Tensor, positions: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
    """seeds, positions [R] int64, token_ids [C] or [R, C] -> [R, C] float32."""
    keys = row_keys(seeds, positions)
    return gumbel_from_bits(noise_bits((keys[0][:, None], keys[1][:, None]), token_ids.to(torch.int32)))


def inverse_temperature(temperature: torch.Tensor) -> torch.Tensor:
    """1 / temperature, and 1 for greedy rows (temperature 0)."""
    return torch.where(temperature > 0, 1.0 / temperature, torch.ones_like(temperature))


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
    if random_rows is None:
        random_rows = range(logits.shape[0])
    if logits.shape[0] == 0:
        return slots.new_zeros(0), torch.zeros(0, dtype=torch.bool, device=logits.device)
    if len(random_rows) < logits.shape[0]:
        best, token_ids = logits.max(dim=-1)
        best = best.float()
    else:
        best = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        token_ids = torch.empty(logits.shape[0], dtype=torch.int64, device=logits.device)
    draw = _draw_row_cpu if logits.device.type == "cpu" else _draw_rows
    step = 1 if logits.device.type == "cpu" else max(1, _CHUNK_ELEMENTS // logits.shape[1])
    for begin in range(0, len(random_rows), step):
        draw(logits, slots, temperature, seeds, positions, cutoff, list(random_rows[begin : begin + step]), best, token_ids)
    return token_ids, ~torch.isfinite(best)


def _draw_rows(logits, slots, temperature, seeds, positions, cutoff, rows, best, token_ids) -> None:  # noqa: ANN001
    """Several rows, all tokens, nothing that waits for the device."""
    index: slice | list[int] = slice(rows[0], rows[-1] + 1) if rows[-1] - rows[0] + 1 == len(rows) else rows
    chunk = logits[index].float()  # [r, V]
    heat = temperature[slots[index]][:, None]
    tokens = torch.arange(chunk.shape[1], dtype=torch.int32, device=chunk.device)
    noise = gumbel(seeds[slots[index]], positions[index], tokens)
    scores = chunk * inverse_temperature(heat) + torch.where(heat > 0, noise, 0.0)
    if cutoff is not None:
        scores = scores.masked_fill(chunk < cutoff[index][:, None], float("-inf"))
    best[index], token_ids[index] = scores.max(dim=-1)


def _draw_row_cpu(logits, slots, temperature, seeds, positions, cutoff, rows, best, token_ids) -> None:  # noqa: ANN001
    """One row, only the tokens that can win: the same choice as `_draw_rows`, with less noise to make."""
    (r,) = rows
    row, slot = logits[r].float(), slots[r : r + 1]
    heat = float(temperature[slot])
    top, top_id = row.max(dim=-1)
    if heat <= 0 or not bool(torch.isfinite(top)):
        best[r], token_ids[r] = top, top_id
        return
    inverse = inverse_temperature(temperature[slot])
    keys = row_keys(seeds[slot], positions[r : r + 1])
    # A token must be so close to the best one that even the largest noise could carry it past the best one's score.
    reach = float(gumbel_from_bits(noise_bits(keys, top_id.to(torch.int32)[None]))) - MAX_GUMBEL - 1e-3
    low = float(top) + reach * heat - 1e-5 * abs(float(top))
    if cutoff is not None:
        low = max(low, float(cutoff[r]))
    ids = (row >= low).nonzero()[:, 0]  # [C], rising, so the first of equal scores is the lowest id
    values = row[ids] * inverse
    scores = values.add_(gumbel_from_bits(noise_bits(keys, ids.to(torch.int32))))
    best[r], winner = scores.max(dim=-1)
    token_ids[r] = ids[winner]


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
    num_rows, vocab = logits.shape
    step = max(1, _SORT_ELEMENTS // vocab)
    if num_rows > step:
        parts = [
            cutoffs(*(t[i : i + step] for t in (logits, temperature, top_k, top_p, min_p)), max_top_k, any_top_p,
                    any_unlimited_top_p)
            for i in range(0, num_rows, step)
        ]
        return torch.cat(parts)
    best = logits.amax(dim=-1)  # [R]
    floor = torch.where(min_p > 0, best + torch.log(min_p) * temperature, float("-inf"))
    max_top_k = min(max_top_k, vocab)
    guess = max_top_k
    if any_unlimited_top_p:
        guess = max(max_top_k, min(_CPU_NUCLEUS, vocab)) if logits.device.type == "cpu" else vocab
    if guess == 0:
        return floor
    found, complete = _ranked_cutoff(logits, guess, best, floor, temperature, top_k, top_p, any_top_p)
    if any_unlimited_top_p and guess < vocab and not bool(complete.all()):  # CPU only: nothing is waited for there
        found, _ = _ranked_cutoff(logits, vocab, best, floor, temperature, top_k, top_p, any_top_p)
    return found


def _ranked_cutoff(
    logits: torch.Tensor,
    depth: int,
    best: torch.Tensor,
    floor: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    any_top_p: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Cut-offs from the `depth` largest logits, and whether those were enough for each row's top-p."""
    if depth <= _SMALL_TOP_K and depth < logits.shape[1]:
        ranked = logits.topk(depth, dim=-1).values  # [R, depth] falling
    else:
        ranked = logits.sort(dim=-1, descending=True).values[:, :depth]
    last = (top_k.clamp(min=1, max=depth) - 1)[:, None]
    kth = ranked.gather(1, last)[:, 0]
    floor = torch.where(top_k > 0, torch.maximum(floor, kth), floor)
    if not any_top_p:
        return floor, None
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
