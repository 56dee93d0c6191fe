"""Every feature against the naive account, token by token, over whole generations with mixed batches."""

import numpy as np
import pytest
import torch

from kvasir.errors import ConfigError, UserError
from kvasir.sampling import Sampler
from tests.sampling.helpers import Harness, Naive, make_request

VOCAB = 53  # neither a power of two nor a multiple of anything


def wishes(rng: np.random.Generator, kind: str) -> dict:
    """Random fields of one kind of request."""
    if kind == "mixed":
        merged: dict = {}
        for k in rng.permutation(list(KINDS))[: int(rng.integers(1, 5))]:
            merged |= wishes(rng, str(k))
        return merged
    return KINDS[kind](rng)


def _ids(rng: np.random.Generator, n: int) -> list[int]:
    return rng.permutation(VOCAB)[:n].tolist()


KINDS = {
    "greedy": lambda r: {"temperature": 0.0},
    "temperature": lambda r: {"temperature": float(r.uniform(0.2, 2.0))},
    "top_k": lambda r: {"top_k": int(r.integers(1, 70))},
    "top_p": lambda r: {"top_p": float(r.uniform(0.05, 0.99))},
    "min_p": lambda r: {"min_p": float(r.uniform(0.01, 1.0))},
    "cuts": lambda r: {
        "top_k": int(r.integers(2, 40)), "top_p": float(r.uniform(0.3, 0.95)), "min_p": float(r.uniform(0, 0.1)),
        "temperature": float(r.uniform(0.5, 1.5)),
    },
    "penalties": lambda r: {
        "repetition_penalty": float(r.uniform(0.7, 2.0)), "presence_penalty": float(r.uniform(-2, 2)),
        "frequency_penalty": float(r.uniform(-2, 2)),
    },
    "logit_bias": lambda r: {"logit_bias": {t: float(r.uniform(-20, 20)) for t in _ids(r, 5)}},
    "allowed": lambda r: {"allowed_token_ids": _ids(r, int(r.integers(2, 20)))},
    "min_tokens": lambda r: {
        "min_tokens": int(r.integers(1, 10)), "eos_token_ids": _ids(r, 10), "stop_token_ids": _ids(r, 10),
    },
    "bad_words": lambda r: {
        # few letters, so that long words do come up: every pair and triple begins with likely tokens
        "bad_words_token_ids": [r.integers(0, 4, size=int(r.integers(1, 5))).tolist() for _ in range(6)],
        "logit_bias": dict.fromkeys(range(4), 8.0),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
@pytest.mark.parametrize("fresh", [1, 2, 3])
def test_generation_equals_the_naive_account(kind: str, fresh: int):
    rng = np.random.default_rng([fresh, [*KINDS, "mixed"].index(kind)])
    h = Harness(VOCAB)
    requests = {}
    for slot in rng.permutation(8)[:5].tolist():
        other = wishes(rng, str(rng.choice(list(KINDS)))) if slot % 2 else wishes(rng, kind)
        request = make_request(slot, rng.integers(0, VOCAB, 6).tolist(), seed=int(rng.integers(2**63)), **other)
        requests[slot] = request
        h.add(request)
    failures = 0
    for _ in range(14):
        slots = rng.permutation(list(requests))[: int(rng.integers(1, 6))].tolist()
        logits = torch.tensor(rng.normal(size=(len(slots), VOCAB)) * 2, dtype=torch.float32)
        before = logits.clone()
        want = [Naive(requests[s], list(h.tokens[s])).token(logits[r].numpy()) for r, s in enumerate(slots)]
        host = h.step(logits, slots)
        assert torch.equal(logits, before), "the caller's logits were changed"
        for r, token in enumerate(want):
            if token is None:
                assert "masked" in host.errors[r]
                failures += 1
            else:
                assert host.token_ids[r] == token, requests[slots[r]].params
                assert r not in host.errors
    assert failures == 0 or kind in ("mixed", "allowed", "min_tokens", "bad_words")


@pytest.mark.parametrize("fresh", [1, 2, 3])
@pytest.mark.parametrize("vocab", [40, 700, 3001])
def test_cutoffs_keep_exactly_the_right_tokens(fresh: int, vocab: int):
    """Many ties, wide and narrow distributions, masked tokens; above and below the CPU's first guess."""
    rng = np.random.default_rng([fresh, vocab])
    h = Harness(vocab)
    rows, requests = 6, []
    for slot in range(rows):
        fields = wishes(rng, str(rng.choice(["top_k", "top_p", "min_p", "cuts"])))
        requests.append(make_request(slot, [0], **({"temperature": 1.0} | fields)))
        h.add(requests[-1])
    raw = rng.normal(size=(rows, vocab)) * rng.uniform(0.1, 4, size=(rows, 1))
    raw = np.where(rng.random(raw.shape) < 0.5, np.round(raw), raw)
    raw[rng.random(raw.shape) < 0.1] = -np.inf
    logits = torch.tensor(raw, dtype=torch.float32)
    h.state.flush()
    cut = h.sampler._cutoffs(logits, h.rows(list(range(rows))))
    for r, request in enumerate(requests):
        if request.params.top_k == 1:
            continue  # greedy
        want = Naive(request, [0]).kept(logits[r].double().numpy())
        got = (logits[r] >= cut[r]).numpy() & np.isfinite(raw[r])
        assert np.array_equal(got, want & np.isfinite(raw[r])), request.params


def test_top_p_stops_when_its_mass_is_met_exactly():
    logits = torch.log(torch.tensor([[0.25, 1.0, 0.25, 0.5]]))
    assert logits.exp().tolist() == [[0.25, 1.0, 0.25, 0.5]]  # or the next line would prove nothing
    for top_p, kept in [(0.25, 1), (0.5, 1), (0.5001, 2), (0.75, 2), (0.7501, 4), (0.99, 4)]:
        h = Harness(4)
        h.add(make_request(0, [0], top_p=top_p))
        h.state.flush()
        assert int((logits >= h.sampler._cutoffs(logits, h.rows([0]))[:, None]).sum()) == kept


@pytest.mark.parametrize("vocab", [5000, 70_000])
def test_top_p_of_flat_rows_beside_peaked_ones(vocab: int):
    """The nuclei of the flat rows lie beyond the first guess and beyond the second one."""
    h = Harness(vocab)
    for slot in range(3):
        h.add(make_request(slot, [0], top_p=0.5))
    h.state.flush()
    logits = torch.linspace(0, 0.001, vocab).repeat(3, 1)
    logits[1, :] = torch.arange(vocab)
    cut = h.sampler._cutoffs(logits, h.rows([0, 1, 2]))
    kept = (logits >= cut[:, None]).sum(-1).tolist()
    assert kept[1] == 1
    assert kept[0] == kept[2]
    assert abs(kept[0] - vocab // 2) <= vocab * 0.001


@pytest.mark.parametrize("fresh", [1, 2])
def test_batch_invariance(fresh: int):
    """A row alone, in a batch, in another order and in another slot: the same token and log-probabilities."""
    rng = np.random.default_rng(fresh)
    together, slots = Harness(VOCAB), list(range(8))
    requests = [
        make_request(s, rng.integers(0, VOCAB, 4).tolist(), seed=s * 77, logprobs=3, **wishes(rng, "mixed"))
        for s in slots
    ]
    for request in requests:
        together.add(request)
    logits = torch.tensor(rng.normal(size=(8, VOCAB)) * 2, dtype=torch.float32)
    whole = together.step(logits, slots)

    order = rng.permutation(8)
    shuffled = Harness(VOCAB)
    new_slot = rng.permutation(8)
    for s in slots:
        request = requests[s]
        request.slot = int(new_slot[s])
        shuffled.add(request)
    mixed = shuffled.step(logits[torch.tensor(order)], [int(new_slot[s]) for s in order])
    assert [whole.token_ids[s] for s in order] == mixed.token_ids
    for s in slots:
        alone = Harness(VOCAB)
        requests[s].slot = 3
        alone.add(requests[s])
        single = alone.step(logits[s : s + 1], [3])
        assert single.token_ids[0] == whole.token_ids[s]
        assert single.logprobs[0] == whole.logprobs[s]
        assert single.logprobs[0] == mixed.logprobs[int(np.flatnonzero(order == s)[0])]


@pytest.mark.parametrize("kind", ["penalties", "bad_words", "min_tokens", "cuts", "mixed"])
@pytest.mark.parametrize("border", [0, 1, 5, 9])
def test_resume_goes_on_as_if_nothing_happened(kind: str, border: int):
    rng = np.random.default_rng([border, len(kind)])
    fields = wishes(rng, kind)
    logits = torch.tensor(rng.normal(size=(12, VOCAB)) * 2, dtype=torch.float32)
    prompt = rng.integers(0, VOCAB, 5).tolist()
    straight = Harness(VOCAB)
    straight.add(make_request(2, prompt, seed=9, **fields))
    want = [straight.step(logits[i : i + 1], [2]).token_ids[0] for i in range(12)]

    broken = Harness(VOCAB)
    broken.add(make_request(2, prompt, seed=9, **fields))
    for i in range(border):
        broken.step(logits[i : i + 1], [2])
    broken.remove(2)
    # Someone else uses the slot meanwhile and leaves its traces.
    broken.add(make_request(2, [1], seed=4, bad_words_token_ids=[[1, 2]], repetition_penalty=1.5, top_k=5))
    broken.step(logits[:1], [2])
    broken.remove(2)
    broken.add(make_request(2, prompt, want[:border], seed=9, **fields))
    assert [broken.step(logits[i : i + 1], [2]).token_ids[0] for i in range(border, 12)] == want[border:]


def test_move_takes_everything_along():
    rng = np.random.default_rng(5)
    for kind in KINDS:
        fields = wishes(rng, kind)
        logits = torch.tensor(rng.normal(size=(8, VOCAB)) * 2, dtype=torch.float32)
        stay, go = Harness(VOCAB), Harness(VOCAB)
        for h in (stay, go):
            h.add(make_request(1, [3, 4], seed=9, logprobs=2, **fields))
        want = [stay.step(logits[i : i + 1], [1]) for i in range(8)]
        got = []
        for i in range(8):
            if i in (0, 3, 5):  # also before the first flush, and back to a slot used before
                source, target = (1, 6) if i != 3 else (6, 1)
                go.state.move(source, target)
                go.tokens[target] = go.tokens.pop(source)
            got.append(go.step(logits[i : i + 1], list(go.tokens)))
        assert got == want, kind


def test_steps_may_be_queued_before_the_host_reads_any_token():
    """Overlap: all steps are sampled first, the host looks afterwards; the history was right all along."""
    rng = np.random.default_rng(8)
    fields = {**KINDS["penalties"](rng), **KINDS["bad_words"](rng), "min_tokens": 3, "eos_token_ids": [0, 1]}
    logits = torch.tensor(rng.normal(size=(10, 2, VOCAB)) * 2, dtype=torch.float32)
    plain, ahead = Harness(VOCAB), Harness(VOCAB)
    for h in (plain, ahead):
        for slot in (0, 4):
            h.add(make_request(slot, [5, 6, 7], seed=slot, **fields))
    want = [plain.step(logits[i], [0, 4]).token_ids for i in range(10)]
    queued = []
    for i in range(10):
        queued.append(ahead.sample(logits[i], [0, 4]).token_ids)
        for slot in (0, 4):
            ahead.tokens[slot].append(-1)  # the host knows only that there is one more
    assert [t.tolist() for t in queued] == want


def test_min_tokens_lets_go_on_the_host_as_well():
    h = Harness(VOCAB)
    h.add(make_request(0, [1], temperature=0, min_tokens=2, eos_token_ids=[7]))
    logits = torch.zeros(1, VOCAB)
    logits[0, 7] = 5.0
    assert [h.step(logits, [0]).token_ids[0] == 7 for _ in range(4)] == [False, False, True, True]
    assert not any(p.slots for p in h.state.processors)


def test_min_tokens_goes_by_the_position_when_a_step_gives_several_tokens():
    """With drafts the host counts too few; the device must not."""
    h = Harness(VOCAB)
    h.add(make_request(0, [1], temperature=0, min_tokens=4, eos_token_ids=[7]))
    logits = torch.zeros(1, VOCAB)
    logits[0, 7] = 5.0
    for outputs, ends in [(2, False), (3, False), (4, True)]:
        h.tokens[0] = [1] + [2] * outputs
        assert (h.step(logits, [0]).token_ids[0] == 7) is ends


def test_rows_without_wishes_pay_for_no_processor(monkeypatch: pytest.MonkeyPatch):
    h = Harness(VOCAB)
    h.add(make_request(0, [1], temperature=0))
    h.add(make_request(1, [1], repetition_penalty=1.3, logit_bias={3: 1.0}))
    for p in h.state.processors:
        monkeypatch.setattr(p, "apply", lambda *a: pytest.fail("a processor ran for a row that did not ask"))
    h.step(torch.randn(1, VOCAB), [0])


def test_half_precision_logits_and_no_rows():
    h = Harness(VOCAB)
    h.add(make_request(0, [1], temperature=0))
    h.add(make_request(1, [1], seed=3, top_p=0.9, logprobs=2))
    logits = torch.randn(2, VOCAB).bfloat16()
    assert h.step(logits, [0, 1]).token_ids[0] == int(logits[0].argmax())
    for s in (0, 1):
        h.tokens[s].pop()
    again = h.step(logits.float(), [0, 1])
    assert again.logprobs[1].token_ids[0] == again.token_ids[1]
    empty = h.step(torch.zeros(0, VOCAB), [])
    assert (empty.token_ids, empty.logprobs, empty.errors) == ([], {}, {})


def test_a_row_with_nothing_left_fails_alone():
    h = Harness(VOCAB)
    h.add(make_request(0, [1], allowed_token_ids=[9], bad_words_token_ids=[[9]]))
    h.add(make_request(1, [1], temperature=0))
    h.add(make_request(2, [1], top_p=0.5, top_k=4, seed=1))
    logits = torch.randn(3, VOCAB)
    logits[2, 5] = float("nan")
    host = h.step(logits, [0, 1, 2])
    assert sorted(host.errors) == [0, 2]
    assert host.token_ids[0] == int(logits[0].argmax())
    assert host.token_ids[1] == int(logits[1].argmax())


def test_equal_best_logits_take_the_lowest_id_when_greedy():
    h = Harness(VOCAB)
    h.add(make_request(0, [1], temperature=0))
    h.add(make_request(1, [1], temperature=1.0, top_k=1, seed=5))
    logits = torch.zeros(2, VOCAB)
    logits[:, [11, 30, 52]] = 4.0
    assert h.step(logits, [0, 1]).token_ids == [11, 11]


@pytest.mark.parametrize("field", ["logit_bias", "allowed_token_ids", "stop_token_ids", "bad_words_token_ids"])
def test_ids_beyond_the_vocabulary_are_refused_before_the_device_sees_them(field: str):
    value = {"logit_bias": {VOCAB: 1.0}, "bad_words_token_ids": [[1, VOCAB]]}.get(field, [VOCAB])
    h = Harness(VOCAB)
    with pytest.raises(UserError, match=f"token id {VOCAB}, but ids go from 0 to {VOCAB - 1}"):
        h.add(make_request(0, [1], **{field: value}))
    assert not any(p.slots for p in h.state.processors)


def test_prompt_ids_beyond_the_vocabulary_do_not_disturb_penalties():
    h = Harness(VOCAB)
    request = make_request(0, [1, VOCAB + 100, 2], temperature=0, repetition_penalty=2.0)
    h.add(request)
    logits = torch.randn(1, VOCAB)
    want = Naive(make_request(0, [1, 2], temperature=0, repetition_penalty=2.0), [1, 2]).token(logits[0].numpy())
    assert h.step(logits, [0]).token_ids == [want]


def test_unknown_logprobs_mode_is_refused():
    with pytest.raises(ConfigError, match="raw_logprobs"):
        Sampler(Harness(VOCAB).state, logprobs_mode="cooked")
