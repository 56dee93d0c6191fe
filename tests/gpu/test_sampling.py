"""The sampler on the card: equal to the CPU's, and never waiting for the device."""

import numpy as np
import pytest
import torch

from kvasir.messages import SamplingParams, SlotRequest
from kvasir.ops.reference import sample as reference
from kvasir.sampling import PendingSamples, Sampler, SampleRows, SamplingState, to_host

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]

NEAR_TIE = 1e-4
FIELDS: dict[str, dict] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_k": {"top_k": 20},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.05},
    "cuts": {"top_k": 50, "top_p": 0.9, "min_p": 0.01, "temperature": 0.7},
    "penalties": {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3},
    "bias": {"logit_bias": {3: 4.0, 9: -50.0}, "temperature": 0.5},
    "allowed": {"allowed_token_ids": list(range(40, 90))},
    "min_tokens": {"min_tokens": 4, "stop_token_ids": [1, 2, 3]},
}


def build(device: str, vocab: int, logprobs: int | None) -> tuple[Sampler, list[int]]:
    state = SamplingState(16, vocab, device)
    slots = []
    for i, fields in enumerate(FIELDS.values()):
        slot = 15 - i
        params = SamplingParams(max_tokens=None, logprobs=logprobs, **fields)
        state.add(
            slot,
            SlotRequest(
                f"r{i}", slot, [5, 6, 7, 8], 3, 0, [], params, seed=1000 + i, bad_words_token_ids=[[8, 30], [31]]
            ),
        )
        slots.append(slot)
    return Sampler(state), slots


def rows_of(slots: list[int], step: int, device: str) -> SampleRows:
    return SampleRows(torch.tensor(slots, device=device), slots, torch.full((len(slots),), 4 + step, device=device))


@pytest.mark.parametrize("vocab", [1003, 32_000, 151_936])
@pytest.mark.parametrize("seed", [1, 2])
def test_tokens_equal_the_cpus(vocab: int, seed: int):
    """Step by step with the CPU's history; a different token is accepted only at a near tie of the two best."""
    on_cpu, slots = build("cpu", vocab, logprobs=3)
    on_gpu, _ = build("cuda", vocab, logprobs=3)
    gen = torch.Generator().manual_seed(seed)
    different = 0
    for step in range(5):
        logits = torch.randn(len(slots), vocab, generator=gen) * 2
        on_cpu.state.flush()
        on_gpu.state.flush()
        want = to_host(on_cpu.sample(logits, rows_of(slots, step, "cpu")))
        got = to_host(on_gpu.sample(logits.cuda(), rows_of(slots, step, "cuda")))
        assert got.errors == want.errors == {}
        different += sum(a != b for a, b in zip(got.token_ids, want.token_ids, strict=True))
        for r in range(len(slots)):
            if got.token_ids[r] == want.token_ids[r]:
                assert got.logprobs[r].token_ids == want.logprobs[r].token_ids
                np.testing.assert_allclose(got.logprobs[r].logprobs, want.logprobs[r].logprobs, atol=1e-4)
    assert different <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocab"), [(1, 17), (33, 4096), (7, 151_936)])
def test_fused_kernel_equals_the_reference(dtype: torch.dtype, rows: int, vocab: int):
    from kvasir.ops.triton import sample as fused

    gen = torch.Generator(device="cuda").manual_seed(rows)
    logits = (torch.randn(rows, vocab, generator=gen, device="cuda") * 3).to(dtype)
    slots = torch.randperm(rows, generator=gen, device="cuda")
    heat = torch.rand(rows, generator=gen, device="cuda") + 0.3
    seeds = torch.randint(-(2**62), 2**62, (rows,), generator=gen, device="cuda")
    positions = torch.randint(0, 4096, (rows,), generator=gen, device="cuda")
    got, failed = fused.sample_tokens(logits, slots, heat, seeds, positions)
    want, _ = reference.sample_tokens(logits, slots, heat, seeds, positions)
    noise = reference.gumbel(seeds[slots], positions, torch.arange(vocab, device="cuda"))
    scores = logits.float() / heat[slots][:, None] + noise
    gap = (scores.gather(1, got[:, None]) - scores.gather(1, want[:, None])).abs()
    assert float(gap.max()) < NEAR_TIE
    assert not failed.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "vocab"), [(5, 17), (64, 32_000), (9, 151_936)])
def test_cutoffs_equal_the_reference(dtype: torch.dtype, rows: int, vocab: int):
    from kvasir.ops.triton import sample as fused

    gen = torch.Generator(device="cuda").manual_seed(rows)
    logits = (torch.randn(rows, vocab, generator=gen, device="cuda") * 3).to(dtype)
    slots = torch.randperm(rows, generator=gen, device="cuda")
    heat = torch.rand(rows, generator=gen, device="cuda") + 0.3
    top_k = torch.randint(0, 3, (rows,), generator=gen, device="cuda") * 700
    top_p = (torch.rand(rows, generator=gen, device="cuda") * 1.4 + 0.05).clamp(max=1.0)
    min_p = (torch.rand(rows, generator=gen, device="cuda") * 0.1 - 0.05).clamp(min=0.0)
    got = fused.cutoffs(logits, slots, heat, top_k, top_p, min_p)
    want = reference.cutoffs(logits.float(), *(t[slots] for t in (heat, top_k, top_p, min_p)), 1400, True, True)
    differ = ((logits.float() >= got[:, None]) != (logits.float() >= want[:, None])).sum(dim=1)
    if dtype == torch.float32:
        assert int(differ.max()) <= 1  # the token where the mass is met, by the sums' rounding
    assert int((differ > 0).sum()) <= 1
    alone = fused.cutoffs(logits[:1], slots[:1], heat, top_k, top_p, min_p)
    assert torch.equal(alone, got[:1])


def test_a_row_is_the_same_alone_and_in_a_batch():
    sampler, slots = build("cuda", 32_000, logprobs=None)
    sampler.state.flush()
    plain = slots[:6]  # these keep no history of tokens
    logits = torch.randn(6, 32_000, device="cuda") * 3
    together = sampler.sample(logits, rows_of(plain, 0, "cuda")).token_ids.tolist()
    alone = [
        sampler.sample(logits[r : r + 1], rows_of([slot], 0, "cuda")).token_ids.item() for r, slot in enumerate(plain)
    ]
    assert alone == together


def test_no_step_waits_for_the_device():
    sampler, slots = build("cuda", 32_000, logprobs=2)
    logits = torch.randn(len(slots), 32_000, device="cuda")
    prepared = [rows_of(slots, step, "cuda") for step in range(4)]
    sampler.state.flush()
    to_host(sampler.sample(logits, prepared[0]))  # compiles and fills caches
    torch.cuda.set_sync_debug_mode("error")
    try:
        pending = []
        for step in range(1, 4):
            sampler.state.remove(slots[step])
            params = SamplingParams(max_tokens=None, repetition_penalty=1.1, logit_bias={5: 1.0}, top_p=0.9)
            sampler.state.add(slots[step], SlotRequest("n", slots[step], [1, 2, 3], 2, 0, [], params, seed=step))
            sampler.state.flush()
            pending.append(PendingSamples(sampler.sample(logits, prepared[step])))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(len(p.result().token_ids) == len(slots) for p in pending)


def test_a_masked_row_fails_alone():
    state = SamplingState(2, 500, "cuda")
    state.add(0, SlotRequest("a", 0, [1], 1, 0, [], SamplingParams(allowed_token_ids=[9]), 1, [], [], [[9]]))
    state.add(1, SlotRequest("b", 1, [1], 1, 0, [], SamplingParams(), 1))
    state.flush()
    rows = SampleRows(torch.tensor([0, 1], device="cuda"), [0, 1], torch.ones(2, dtype=torch.int64, device="cuda"))
    assert list(to_host(Sampler(state).sample(torch.randn(2, 500, device="cuda"), rows)).errors) == [0]
