"""The noise: the same words as plain integer arithmetic, and good enough statistics."""

import numpy as np
import pytest
import torch

from kvasir.ops.reference import sample as ref
from tests.sampling.helpers import naive_gumbel, naive_words

# Limits are about five standard deviations of what perfect noise would give, so a seed rarely matters.


def plain(logits: torch.Tensor, *args) -> torch.Tensor:
    """The device-independent path, here on CPU."""
    rows = logits.shape[0]
    draw = ref._Draw(logits, *args, torch.empty(rows), torch.empty(rows, dtype=torch.int64))
    ref._draw_rows(draw, list(range(rows)))
    return draw.token_ids


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """In standard deviations above its mean (degrees of freedom d: mean d, variance 2 d)."""
    d = counts.size - 1
    return (((counts - expected) ** 2 / expected).sum() - d) / np.sqrt(2 * d)


@pytest.mark.parametrize("seed", [0, 1, 2**32, -1, -(2**63), 2**63 - 1, 987654321987])
@pytest.mark.parametrize("position", [0, 1, 4095, 2**20])
def test_words_and_gumbel_equal_integer_arithmetic(seed: int, position: int):
    seeds, positions = torch.tensor([seed]), torch.tensor([position])
    words = ref.noise_bits(ref.row_keys(seeds, positions), torch.arange(300, dtype=torch.int32))
    assert [w & 0xFFFFFFFF for w in words.tolist()] == naive_words(seed, position, range(300))
    got = ref.gumbel(seeds, positions, torch.arange(300))[0].numpy()
    # v is coarse near 1, where the noise is low and decides nothing; elsewhere only the last places differ
    np.testing.assert_allclose(got, naive_gumbel(seed, position, 300), rtol=2e-5, atol=1e-3)
    high = got > 0
    np.testing.assert_allclose(got[high], naive_gumbel(seed, position, 300)[high], rtol=2e-5, atol=2e-6)


def test_extreme_words_give_finite_noise_within_the_stated_bound():
    words = torch.tensor([0, 1, 2, -1, -2, 2**31 - 1, -(2**31)], dtype=torch.int32)
    noise = ref.gumbel_from_bits(words)
    assert torch.isfinite(noise).all()
    assert float(noise.max()) < ref.MAX_GUMBEL
    assert float(noise.max()) > ref.MAX_GUMBEL - 0.1


def test_noise_has_gumbel_distribution():
    noise = ref.gumbel(torch.arange(100), torch.arange(100) * 3, torch.arange(10_000)).double().flatten()
    assert abs(float(noise.mean()) - 0.5772157) < 5 * 1.2825 / 1000
    assert abs(float(noise.std()) - 1.2825498) < 0.01
    uniform = torch.exp(-torch.exp(-noise)).numpy()
    counts, _ = np.histogram(uniform, bins=200, range=(0, 1))
    assert chi_square(counts, np.full(200, noise.numel() / 200)) < 5


@pytest.mark.parametrize("fresh", [1, 2, 3])
def test_sampled_frequencies_follow_softmax(fresh: int):
    rng = np.random.default_rng(fresh)
    logits = torch.tensor(rng.normal(size=13) * 1.5, dtype=torch.float32)
    draws, heat = 20_000, 0.8
    args = (torch.zeros(draws, dtype=torch.int64), torch.tensor([heat]), torch.tensor([int(rng.integers(2**62))]))
    positions = torch.arange(draws)
    tokens = plain(logits.expand(draws, 13), *args, positions, None)
    expected = torch.softmax(logits.double() / heat, 0).numpy() * draws
    assert chi_square(np.bincount(tokens, minlength=13), expected) < 5


@pytest.mark.parametrize("axis", ["positions", "seeds", "high seed words", "tokens"])
def test_neighbours_are_independent(axis: str):
    n, bins = 60_000, 12
    base = torch.arange(n)
    if axis == "positions":
        first, second = (ref.gumbel(torch.full((n,), 7), base + d, torch.tensor([3])) for d in (0, 1))
    elif axis == "seeds":
        first, second = (ref.gumbel(base + d, torch.full((n,), 11), torch.tensor([3])) for d in (0, 1))
    elif axis == "high seed words":
        first, second = (ref.gumbel((base + d) << 32, torch.full((n,), 11), torch.tensor([3])) for d in (0, 1))
    else:
        first, second = (ref.gumbel(torch.tensor([7]), torch.tensor([11]), base + d) for d in (0, 1))
    u = [np.exp(-np.exp(-x.double().flatten().numpy())) for x in (first, second)]
    table, _, _ = np.histogram2d(*u, bins=bins, range=[[0, 1], [0, 1]])
    assert chi_square(table.flatten(), np.full(bins * bins, n / bins**2)) < 5
    assert abs(np.corrcoef(*u)[0, 1]) < 5 / np.sqrt(n)


def test_seed_and_position_are_not_interchangeable():
    a = ref.gumbel(torch.tensor([5]), torch.tensor([9]), torch.arange(50))
    b = ref.gumbel(torch.tensor([9]), torch.tensor([5]), torch.arange(50))
    c = ref.gumbel(torch.tensor([6]), torch.tensor([8]), torch.arange(50))
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("seed", range(6))
def test_cpu_shortcut_equals_all_tokens(seed: int):
    """The row-wise CPU path skips tokens that cannot win; the choice must be that of the plain path."""
    gen = torch.Generator().manual_seed(seed)
    vocab, rows = 997, 12
    logits = torch.randn(rows, vocab, generator=gen) * float(10 ** (seed / 2 - 1))
    logits[torch.rand(logits.shape, generator=gen) < 0.3] = float("-inf")
    slots = torch.arange(rows)
    heat = torch.rand(rows, generator=gen) * 2
    heat[::4] = 0
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=gen)
    positions = torch.randint(0, 5000, (rows,), generator=gen)
    for cutoff in (None, logits.topk(20).values[:, -1].contiguous()):
        got, failed = ref.sample_tokens(logits, slots, heat, seeds, positions, cutoff)
        assert torch.equal(got, plain(logits, slots, heat, seeds, positions, cutoff))
        some = [11, 2, 3, 7]  # the other rows count as greedy then
        got, _ = ref.sample_tokens(logits, slots, heat, seeds, positions, cutoff, some)
        heat_of_some = torch.zeros(rows).index_copy_(0, torch.tensor(some), heat[some])
        assert torch.equal(got, plain(logits, slots, heat_of_some, seeds, positions, cutoff))
        assert not failed.any()


@pytest.mark.parametrize("with_cutoff", [False, True])
def test_broken_rows_fail_alone(with_cutoff: bool):
    logits = torch.full((5, 9), -3.0)
    logits[0] = float("-inf")
    logits[1, 4] = float("nan")
    logits[2, 4] = float("inf")
    cutoff = torch.full((5,), float("-inf")) if with_cutoff else None
    heat = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    args = (torch.arange(5), heat, torch.arange(5), torch.arange(5), cutoff)
    token_ids, failed = ref.sample_tokens(logits, *args)
    assert failed.tolist() == [True, True, True, False, False]
    assert ((token_ids >= 0) & (token_ids < 9)).all()
    assert torch.equal(token_ids[3:], plain(logits, *args)[3:])
