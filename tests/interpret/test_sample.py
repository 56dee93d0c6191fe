"""The fused kernel through Triton's interpreter; run this folder in a process of its own with TRITON_INTERPRET=1.

The noise words are compared bit by bit. Tokens are equal except where the two best scores lie within NEAR_TIE of
each other, which is as far as two implementations of log may move them; the test counts how often it looks away.
"""

import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs TRITON_INTERPRET=1 from the start of the process", allow_module_level=True)
triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from kvasir.ops.reference import sample as reference  # noqa: E402
from kvasir.ops.triton import sample as fused  # noqa: E402
from kvasir.sampling import sampler as sampler_module  # noqa: E402
from tests.sampling.helpers import Harness, Naive, make_request  # noqa: E402

NEAR_TIE = 1e-4


@triton.jit
def _bits_kernel(out_ptr, seed_ptr, position_ptr, COUNT: tl.constexpr):
    lane0, lane1 = fused._row_keys(tl.load(seed_ptr), tl.load(position_ptr))
    tokens = tl.arange(0, COUNT)
    bits = fused._mix(tokens.to(tl.uint32) ^ lane0, lane1)
    tl.store(out_ptr + tokens, bits.to(tl.int32, bitcast=True))


@triton.jit
def _gumbel_kernel(out_ptr, bits_ptr, COUNT: tl.constexpr):
    at = tl.arange(0, COUNT)
    bits = tl.load(bits_ptr + at).to(tl.uint32, bitcast=True)
    tl.store(out_ptr + at, fused._gumbel(bits))


@pytest.mark.parametrize("seed", [0, 1, -1, 2**63 - 1, -(2**63), 0x1234_5678_9ABC_DEF0])
@pytest.mark.parametrize("position", [0, 7, 131_072])
def test_noise_words_are_equal_bit_by_bit(seed: int, position: int):
    seeds, positions = torch.tensor([seed]), torch.tensor([position])
    out = torch.empty(4096, dtype=torch.int32)
    _bits_kernel[(1,)](out, seeds, positions, COUNT=4096)
    want = reference.noise_bits(reference.row_keys(seeds, positions), torch.arange(4096, dtype=torch.int32))
    assert torch.equal(out, want)


def test_noise_is_equal_up_to_log():
    bits = torch.randint(-(2**31), 2**31 - 1, (1024,), dtype=torch.int32)
    bits[:4] = torch.tensor([0, -1, 2**31 - 1, -(2**31)], dtype=torch.int32)  # the extremes stay finite
    out = torch.empty(1024)
    _gumbel_kernel[(1,)](out, bits, COUNT=1024)
    assert torch.isfinite(out).all()
    torch.testing.assert_close(out, reference.gumbel_from_bits(bits), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(("vocab", "block"), [(1, 16), (17, 16), (1000, 128), (1003, 256), (2048, 512)])
@pytest.mark.parametrize("with_cutoff", [False, True])
def test_tokens_equal_the_reference(seed: int, vocab: int, block: int, with_cutoff: bool):
    gen = torch.Generator().manual_seed(seed)
    rows, slots_total = 6, 9
    wide = torch.randn(rows, vocab + 5, generator=gen) * 3
    wide[torch.rand(wide.shape, generator=gen) < 0.2] = float("-inf")
    logits = wide[:, :vocab]  # a row stride that is not the width
    logits[:, 0] = 0.5
    slots = torch.randperm(slots_total, generator=gen)[:rows]
    temperature = torch.rand(slots_total, generator=gen) * 1.5 + 0.2
    temperature[slots[0]] = 0.0
    seeds = torch.randint(-(2**63), 2**63 - 1, (slots_total,), generator=gen)
    positions = torch.randint(0, 100_000, (rows,), generator=gen)
    cutoff = torch.full((rows,), -0.5) if with_cutoff else None
    got, failed = fused.sample_tokens(logits, slots, temperature, seeds, positions, cutoff, block=block)
    want, _ = reference.sample_tokens(logits, slots, temperature, seeds, positions, cutoff)
    noise = reference.gumbel(seeds[slots], positions, torch.arange(vocab))
    heat = temperature[slots][:, None]
    scores = logits * reference.inverse_temperature(heat) + torch.where(heat > 0, noise, 0.0)
    looked_away = 0
    for r in (got != want).nonzero().flatten().tolist():
        assert abs(scores[r, got[r]] - scores[r, want[r]]) < NEAR_TIE
        looked_away += 1
    assert looked_away <= 1
    assert not failed.any()


def test_broken_rows_fail_alone():
    logits = torch.zeros(4, 50)
    logits[0] = float("-inf")
    logits[1, 7] = float("nan")
    logits[2, 7] = float("inf")
    slots = torch.arange(4)
    args = (logits, slots, torch.tensor([1.0, 0.0, 1.0, 1.0]), torch.arange(4), torch.arange(4))
    token_ids, failed = fused.sample_tokens(*args, block=16)
    assert failed.tolist() == [True, True, True, False]
    assert failed.tolist() == reference.sample_tokens(*args)[1].tolist()
    assert ((token_ids >= 0) & (token_ids < 50)).all()


def test_half_precision_is_read_as_it_is():
    logits = torch.randn(3, 300).half()
    args = (torch.arange(3), torch.full((3,), 0.8), torch.tensor([5, 6, 7]), torch.tensor([1, 2, 3]))
    want = fused.sample_tokens(logits.float(), *args, block=64)[0]
    assert torch.equal(fused.sample_tokens(logits, *args, block=64)[0], want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("seed", "vocab", "block"), [(1, 1, 16), (1, 37, 16), (2, 37, 32), (3, 1003, 1024)])
def test_cutoffs_keep_what_the_reference_keeps(seed: int, vocab: int, block: int, dtype: torch.dtype):
    gen = torch.Generator().manual_seed(seed)
    rows, total = 7, 10
    logits = torch.randn(rows, vocab, generator=gen) * 3
    logits = torch.where(torch.rand(logits.shape, generator=gen) < 0.5, logits.round(), logits)  # ties, 0.0 and -0.0
    logits = logits.to(dtype)
    logits[torch.rand(logits.shape, generator=gen) < 0.2] = float("-inf")
    logits[6] = float("-inf")
    slots = torch.randperm(total, generator=gen)[:rows]
    heat = torch.rand(total, generator=gen) + 0.3
    top_k = torch.randint(1, 60, (total,), generator=gen)
    top_p = torch.rand(total, generator=gen) * 0.9 + 0.05
    min_p = torch.rand(total, generator=gen) * 0.2
    top_k[slots[0]], top_p[slots[1]], min_p[slots[2]] = 0, 1.0, 0.0
    top_k[slots[3]], min_p[slots[3]] = 0, 0.0  # top-p alone
    top_k[slots[4]], top_p[slots[4]], min_p[slots[4]] = 0, 1.0, 0.0  # no limit
    got = fused.cutoffs(logits, slots, heat, top_k, top_p, min_p, block=block)
    want = reference.cutoffs(logits.float(), *(t[slots] for t in (heat, top_k, top_p, min_p)), 60, True, True)
    assert got[4] == float("-inf")
    assert torch.equal(logits[:6] >= got[:6, None], logits[:6] >= want[:6, None])
    assert got[6] == float("-inf")


def test_the_whole_sampler_over_the_kernels(monkeypatch: pytest.MonkeyPatch):
    """As on a card: every limit and choice of a mixed batch by the kernels, against the naive account of each row."""
    vocab, seed = 53, 1

    def choose(logits, slots, heat, seeds, positions, cutoff=None, random_rows=None):
        return fused.sample_tokens(logits, slots, heat, seeds, positions, cutoff, block=64)

    def limit(logits, slots, heat, top_k, top_p, min_p, host_limits):
        return fused.cutoffs(logits, slots, heat, top_k, top_p, min_p, block=64)

    monkeypatch.setattr(sampler_module, "sample_tokens", choose)
    monkeypatch.setattr(sampler_module, "cutoffs", limit)
    wishes = [
        {"temperature": 0.0}, {"temperature": 0.7, "top_k": 5}, {"top_p": 0.6, "repetition_penalty": 1.4},
        {"min_p": 0.1, "top_k": 20, "top_p": 0.9}, {"temperature": 1.3},
        {"allowed_token_ids": [4, 9, 11], "top_p": 0.5},
        {"allowed_token_ids": [4], "bad_words_token_ids": [[4]]},
    ]  # fmt: skip
    h = Harness(vocab)
    requests = [make_request(slot, [1, 2, 3], seed=seed * 100 + slot, **w) for slot, w in enumerate(wishes)]
    for request in requests:
        h.add(request)
    gen = torch.Generator().manual_seed(seed)
    for _ in range(2):
        logits = torch.randn(len(wishes), vocab, generator=gen) * 2
        want = [Naive(q, list(h.tokens[q.slot])).token(logits[q.slot].numpy()) for q in requests]
        host = h.step(logits, list(range(len(wishes))))
        assert list(host.errors) == [6]
        assert host.token_ids[:6] == want[:6]
