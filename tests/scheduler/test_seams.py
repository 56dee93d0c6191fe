"""QueuePolicy and Limiter: the core's own, and what a feature's may do."""

import random

import pytest

from kvasir.scheduler import PREEMPT, SKIP, STOP, FirstComePolicy, PriorityPolicy, Request, SequenceSlots, TokenBudget
from kvasir.scheduler.queue import AGEING_S
from tests.scheduler.driver import Driver, alone, make_request


def make(name="a", num_tokens=10, **kw):
    return Request(make_request(name, list(range(num_tokens)), **kw), Driver().kv.chain(), 64, 256)


def names(policy):
    return [req.request_id for req in policy.order(0.0)]


def test_first_come_by_arrival_and_ties_as_added():
    policy = FirstComePolicy()
    for name, arrival in [("b", 2.0), ("a", 1.0), ("c", 2.0)]:
        policy.push(make(name, arrival=arrival))
    assert names(policy) == ["a", "b", "c"]


def test_priority_then_arrival():
    policy = PriorityPolicy()
    for name, priority, arrival in [("a", 1, 0.0), ("b", 0, 2.0), ("c", 0, 1.0), ("d", -1, 3.0)]:
        policy.push(make(name, priority=priority, arrival=arrival))
    assert names(policy) == ["d", "c", "b", "a"]


def test_waiting_makes_up_for_priority():
    policy = PriorityPolicy()
    policy.push(make("patient", priority=2, arrival=0.0))
    policy.push(make("urgent", priority=0, arrival=2 * AGEING_S + 1))
    assert names(policy) == ["patient", "urgent"]


def test_preempted_goes_before_what_was_never_placed():
    policy, first, second = FirstComePolicy(), make("first"), make("second")
    policy.push(first)
    policy.push(second)
    policy.remove(first)
    first.was_placed = True
    policy.push(first)
    assert names(policy) == ["first", "second"]


@pytest.mark.parametrize("seed", range(3))
def test_remove_finds_the_one(seed):
    rng, policy = random.Random(seed), PriorityPolicy()
    items = [make(str(i), priority=rng.randint(0, 2), arrival=rng.randint(0, 3)) for i in range(50)]
    for req in items:
        policy.push(req)
    for req in rng.sample(items, 50):
        policy.remove(req)
        assert req.request_id not in names(policy)
    assert len(policy) == 0


def test_victims_come_from_the_other_end_of_the_order():
    d = Driver(num_blocks=8, max_num_seqs=2, policy="priority")
    d.add(make_request("low", list(range(10)), max_tokens=12, priority=1))
    d.step()
    d.add(make_request("high", list(range(50, 60)), max_tokens=12, priority=0))
    d.run()
    placed = [new.request_id for plan in d.plans for new in plan.new_requests]
    assert placed[:2] == ["low", "high"] and set(placed[2:]) == {"low"} and len(placed) > 2


def test_token_budget():
    budget, req = TokenBudget(8), make()
    budget.begin()
    assert budget.limit(req, 10) == 8
    budget.take(req, 8)
    assert budget.limit(req, 1) == STOP
    budget.begin()
    assert budget.limit(req, 3) == 3


def test_slots():
    slots, a, b = SequenceSlots(1), make("a"), make("b")
    assert slots.limit(a, 4) == 4
    slots.take(a, 4)
    assert a.slot == 0 and slots.limit(a, 1) == 1 and slots.limit(b, 1) == STOP
    slots.release(a)
    assert slots.limit(b, 1) == 1 and slots.collect_freed() == [0] and slots.collect_freed() == []


class Rules:
    """A feature's limiter, scripted; checks that it is told of each placement once and of each end once."""

    def __init__(self, answer, asks_decode=True):
        self.answer, self.asks_decode = answer, asks_decode
        self.steps = 0
        self.asked, self.held = [], set()

    def begin(self):
        self.steps += 1

    def limit(self, req, n):
        self.asked.append((self.steps, req.request_id, n))
        return self.answer(self.steps, req, n)

    def take(self, req, n):
        self.held.add(req.request_id)

    def release(self, req):
        assert req.slot >= 0
        self.held.remove(req.request_id)

    def update(self, step, result):
        assert result.step_id == step.step_id


def test_a_limiter_may_shorten_and_skip_and_stop():
    rules = Rules(lambda step, req, n: SKIP if (step, req.request_id) == (1, "a") else STOP if step == 2 else min(n, 3))
    d = Driver(extra_limiters=[rules])
    d.add(*(make_request(n, [i] * 5, max_tokens=4, arrival=i) for i, n in enumerate("ab")))
    assert d.step().new_requests[0].request_id == "b"
    assert d.step().num_rows == 0
    third = d.step()
    assert third.num_scheduled_tokens == [2, 3] and third.samples == [True, False]
    answers = d.run()
    for i, name in enumerate("ab"):
        assert answers[name].tokens == alone(make_request(name, [i] * 5, max_tokens=4), 64)[0]
    assert not rules.held


def test_a_limiter_that_has_nothing_to_say_on_decoding_is_not_asked():
    quiet, curious = Rules(lambda s, r, n: n, asks_decode=False), Rules(lambda s, r, n: n)
    for rules, expected in ((quiet, 1), (curious, 6)):
        d = Driver(extra_limiters=[rules], block_size=4)
        d.add(make_request("a", [1] * 5, max_tokens=6))
        d.run()
        assert len(rules.asked) == expected and not rules.held


@pytest.mark.parametrize("seed", range(8))
def test_random_limiters_change_no_token(seed):
    rng = random.Random(seed)

    def answer(step, req, n):
        return rng.choice([SKIP, STOP, n, n, rng.randint(1, n)])

    rules = [Rules(answer), Rules(answer, asks_decode=rng.random() < 0.5)]
    d = Driver(extra_limiters=rules, num_blocks=18, depth=1 + seed % 2)
    prompts = [[rng.randrange(9) for _ in range(rng.randint(1, 30))] for _ in range(9)]
    requests = [make_request(str(i), p, max_tokens=20) for i, p in enumerate(prompts)]
    d.add(*requests)
    answers = d.run()
    for request in requests:
        assert answers[request.request_id].tokens == alone(request, 64)[0]
    assert not any(r.held for r in rules)


def test_answers_are_told_apart():
    assert len({SKIP, STOP, PREEMPT}) == 3 and max(SKIP, STOP, PREEMPT) == 0
