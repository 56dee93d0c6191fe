"""Masks on the device: the named rows lose what is not allowed, their neighbours lose nothing."""

import pytest
import torch

from kvasir.messages import TokenMasks
from kvasir.ops.token_mask import apply_token_masks
from kvasir.sampling import Sampler, SampleRows, SamplingState
from kvasir.structured.worker import TokenMaskProcessor
from tests.sampling.helpers import make_request


def packed(allowed: list[set[int]], vocab: int) -> bytearray:
    words = bytearray(-(-vocab // 32) * 4 * len(allowed))
    for row, tokens in enumerate(allowed):
        for token in tokens:
            words[row * (len(words) // len(allowed)) + token // 8] |= 1 << token % 8
    return words


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 1000])
@pytest.mark.parametrize("num_masks", [1, 3, 40])
def test_the_op_by_hand(vocab: int, num_masks: int) -> None:
    generator = torch.Generator().manual_seed(vocab * 100 + num_masks)
    logits = torch.randn(45, vocab, generator=generator)
    before = logits.clone()
    rows = torch.randperm(45, generator=generator)[:num_masks]
    allowed = [{t for t in range(vocab) if (t * 7 + r) % 3 == 0} for r in range(num_masks)]
    bits = torch.frombuffer(bytearray(packed(allowed, vocab)), dtype=torch.uint8).view(num_masks, -1)
    apply_token_masks(logits, rows, bits)
    for row in range(45):
        where = (rows == row).nonzero().flatten().tolist()
        for token in range(vocab):
            kept = not where or token in allowed[where[0]]
            assert logits[row, token] == (before[row, token] if kept else float("-inf"))


def test_through_the_sampler() -> None:
    vocab, masks = 70, TokenMaskProcessor(torch.device("cpu"))
    state = SamplingState(8, vocab, "cpu", [masks])
    for slot in range(4):
        state.add(slot, make_request(slot, [1, 2], temperature=1.0 if slot % 2 else 0.0, seed=slot, logprobs=2))
    state.flush()
    sampler = Sampler(state)
    logits = torch.randn(4, vocab, generator=torch.Generator().manual_seed(1))
    rows = SampleRows(torch.tensor([2, 0, 3, 1]), [2, 0, 3, 1], torch.tensor([2, 2, 2, 2]))

    def sample(given: TokenMasks | None) -> list[int]:
        masks.take(given)
        return sampler.sample(logits, rows).token_ids.tolist()

    free = sample(None)
    bound = sample(TokenMasks([3, 0, 7], packed([{5, 69}, {40}, {1}], vocab)))  # slot 7 has no row in this step
    assert bound[0] == free[0] and bound[3] == free[3]
    assert bound[1] == 40 and bound[2] in (5, 69)
    assert sampler.sample(logits, rows).token_ids.tolist() == free  # a mask is for one step
    nothing = TokenMasks([0], packed([set()], vocab))
    masks.take(nothing)
    assert sampler.sample(logits, rows).failed.tolist() == [False, True, False, False]


def test_raw_logprobs_are_the_models_own() -> None:
    masks = TokenMaskProcessor(torch.device("cpu"))
    state = SamplingState(2, 8, "cpu", [masks])
    state.add(0, make_request(0, [1], temperature=0.0, logprobs=1))
    state.flush()
    logits = torch.arange(8.0)[None]
    masks.take(TokenMasks([0], packed([{3}], 8)))
    sampled = Sampler(state).sample(logits, SampleRows(torch.tensor([0]), [0], torch.tensor([1])))
    assert sampled.token_ids.tolist() == [3]
    assert sampled.logprobs is not None
    assert sampled.logprobs.values[0, 0] == pytest.approx(logits.log_softmax(-1)[0, 3].item(), abs=1e-5)
    assert sampled.logprobs.token_ids[0, 1] == 7  # the best one, allowed or not
