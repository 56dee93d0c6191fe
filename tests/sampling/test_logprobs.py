import numpy as np
import pytest
import torch

from kvasir.sampling import logprobs as module
from kvasir.sampling import prompt_logprobs
from tests.sampling.helpers import Harness, Naive, make_request

VOCAB = 61


def log_softmax(x: np.ndarray) -> np.ndarray:
    x = x - x.max()
    return x - np.log(np.exp(x).sum())


@pytest.mark.parametrize("fresh", [1, 2, 3])
def test_raw_logprobs_are_of_the_untouched_logits(fresh: int):
    rng = np.random.default_rng(fresh)
    h = Harness(VOCAB)
    wanted = [None, 0, 3, 20, None, 1]
    for slot, k in enumerate(wanted):
        h.add(make_request(slot, [1, 2], seed=slot, logprobs=k, temperature=0.5, top_p=0.8, repetition_penalty=1.7,
                           logit_bias={4: 9.0}))  # fmt: skip
    logits = torch.tensor(rng.normal(size=(6, VOCAB)) * 2, dtype=torch.float32)
    host = h.step(logits, list(range(6)))
    assert sorted(host.logprobs) == [1, 2, 3, 5]
    for r, entry in host.logprobs.items():
        want = log_softmax(logits[r].double().numpy())
        chosen = host.token_ids[r]
        order = np.argsort(-want)[: wanted[r]].tolist()
        assert entry.token_ids == [chosen, *order]
        np.testing.assert_allclose(entry.logprobs, want[entry.token_ids], rtol=1e-5, atol=1e-5)
        assert entry.rank == int((want > want[chosen]).sum()) + 1


@pytest.mark.parametrize("mode", ["processed_logprobs", "raw_logits", "processed_logits"])
def test_other_modes(mode: str):
    rng = np.random.default_rng(3)
    h = Harness(VOCAB, logprobs_mode=mode)
    request = make_request(1, [1, 2], logprobs=4, temperature=0.7, top_k=9, presence_penalty=1.0, logit_bias={4: 2.0})
    h.add(make_request(0, [5], temperature=0))
    h.add(request)
    logits = torch.tensor(rng.normal(size=(2, VOCAB)) * 2, dtype=torch.float32)
    entry = h.step(logits, [0, 1]).logprobs[1]
    raw = logits[1].double().numpy()
    naive = Naive(request, [1, 2])
    processed = naive.processed(raw)
    cut = np.where(naive.kept(processed), processed / 0.7, -np.inf)
    want = {"raw_logits": raw, "processed_logits": cut, "processed_logprobs": log_softmax(cut)}[mode]
    np.testing.assert_allclose(entry.logprobs, want[entry.token_ids], rtol=1e-5, atol=1e-5)
    assert entry.token_ids[1:] == np.argsort(-want)[:4].tolist()


def test_limits_and_the_whole_vocabulary():
    logits = torch.randn(1, VOCAB)
    for limit, asked, got in [(20, -1, 20), (-1, -1, VOCAB), (5, 50, 5), (-1, 1000, VOCAB)]:
        h = Harness(VOCAB, max_logprobs=limit)
        h.add(make_request(0, [1], logprobs=asked))
        entry = h.step(logits, [0]).logprobs[0]
        assert len(entry.token_ids) == len(entry.logprobs) == got + 1


def test_rank_counts_strictly_better_tokens():
    h = Harness(VOCAB)
    h.add(make_request(0, [1], logprobs=0, temperature=0, logit_bias={7: 50.0}))
    logits = torch.zeros(1, VOCAB)
    logits[0, :3] = 1.0
    assert h.step(logits, [0]).logprobs[0].rank == 4  # three above, its equals do not count


@pytest.mark.parametrize("k", [0, 4, -1, 500])
@pytest.mark.parametrize("lazy", [False, True])
def test_prompt_logprobs_in_chunks(monkeypatch: pytest.MonkeyPatch, k: int, lazy: bool):
    monkeypatch.setattr(module, "_CHUNK_ELEMENTS", 3 * VOCAB)
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(size=(10, VOCAB)), dtype=torch.float32)
    targets = torch.tensor(rng.integers(0, VOCAB, 10))
    asked = []

    def make(begin: int, end: int) -> torch.Tensor:
        asked.append(end - begin)
        return logits[begin:end]

    got = prompt_logprobs(make if lazy else logits, targets, k, VOCAB)
    assert not lazy or asked == [3, 3, 3, 1]
    width = VOCAB if k < 0 or k > VOCAB else k
    for r, entry in enumerate(got.entries()):
        want = log_softmax(logits[r].double().numpy())
        assert entry.token_ids == [int(targets[r]), *np.argsort(-want)[:width].tolist()]
        np.testing.assert_allclose(entry.logprobs, want[entry.token_ids], rtol=1e-5, atol=1e-5)
        assert entry.rank == int((want > want[targets[r]]).sum()) + 1


def test_no_prompt_rows():
    assert prompt_logprobs(torch.zeros(0, VOCAB), torch.zeros(0, dtype=torch.int64), 2, VOCAB).entries() == []
