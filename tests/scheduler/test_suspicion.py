"""A step that fails because of one of its requests costs that request, and the others nothing but time."""

import random

import pytest

from kvasir.messages import FinishReason, SchedulerOutput
from tests.scheduler.driver import Driver, alone, make_request

PLANTED = "before"


class Culprit:
    """Makes each step fail that brings its request to at least `tokens` computed ones; in `after` half-way."""

    def __init__(self, name: str, tokens: int = 0, mode: str = PLANTED):
        self.name, self.tokens, self.mode = name, tokens, mode
        self.driver: Driver | None = None
        self.failed_with: list[int] = []  # rows of the steps that failed

    def __call__(self, plan: SchedulerOutput) -> str | None:
        assert self.driver is not None
        req = self.driver.scheduler._requests.get(self.name)
        if req is None or req.slot not in plan.slots:
            return None
        row = plan.slots.index(req.slot)
        if plan.num_computed_tokens[row] + plan.num_scheduled_tokens[row] < self.tokens:
            return None
        self.failed_with.append(plan.num_rows)
        return self.mode


def driver(culprit: Culprit, **more) -> Driver:
    d = Driver(fail=culprit, **{"num_blocks": 64, "max_num_seqs": 8, "max_num_batched_tokens": 32, **more})
    culprit.driver = d
    return d


def requests(count: int, rng: random.Random) -> list:
    return [
        make_request(str(i), [rng.randrange(900) for _ in range(rng.randint(2, 20))], max_tokens=rng.randint(3, 15))
        for i in range(count)
    ]


@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("tokens", [0, 25])
def test_the_culprit_ends_and_its_neighbours_do_not_notice(depth: int, mode: str, tokens: int) -> None:
    culprit = Culprit("bad", tokens, mode)
    d = driver(culprit, depth=depth)
    asked = [make_request("bad", [7] * 20, max_tokens=20), *requests(6, random.Random(depth))]
    d.add(*asked)
    answers = d.run()
    assert answers["bad"].reason is FinishReason.ERROR and "the 3. failure in a row" in answers["bad"].error
    for request in asked[1:]:
        assert answers[request.request_id].tokens == alone(request, 64)[0]
    assert culprit.failed_with[-1] == 1, "the last failure is its own"
    assert len(culprit.failed_with) <= 3 + (depth - 1)


@pytest.mark.parametrize("seed", range(20))
def test_random_loads_with_little_room(seed: int) -> None:
    """Whoever is in the way of a trial gives its place back; several culprits are found one after the other."""
    rng = random.Random(seed)
    bad = {name: Culprit(name, rng.choice([0, 12, 24]), rng.choice(["before", "after"])) for name in ("a", "b")}
    d = Driver(
        depth=rng.choice([1, 2]), num_blocks=rng.choice([16, 20, 40]), max_num_seqs=rng.choice([2, 4, 8]),
        max_num_batched_tokens=rng.choice([5, 16, 64]), prefix_caching=rng.random() < 0.7,
        policy=rng.choice(["fcfs", "fair", "priority", "deadline"]), forecast=rng.random() < 0.5,
        fail=lambda plan: bad["a"](plan) or bad["b"](plan),
    )  # fmt: skip
    for culprit in bad.values():
        culprit.driver = d
    asked = requests(10, rng)
    d.add(make_request("a", [3] * 14, max_tokens=20), *asked[:5], make_request("b", [5] * 9, max_tokens=20))
    for request in asked[5:]:
        d.step()
        d.add(request)
    answers = d.run()
    assert {n for n, answer in answers.items() if answer.reason is FinishReason.ERROR} == {"a", "b"}
    for request in asked:
        assert answers[request.request_id].tokens == alone(request, 64)[0]


@pytest.mark.parametrize("prefix_caching", [True, False])
def test_getting_as_far_as_before_clears_nobody(prefix_caching: bool) -> None:
    """A prompt in chunks whose last chunk fails would else start over for ever."""
    culprit = Culprit("bad", 40)
    d = driver(culprit, max_num_batched_tokens=8, prefix_caching=prefix_caching)
    d.add(make_request("bad", list(range(40)), max_tokens=4), make_request("good", [9], max_tokens=30))
    answers = d.run(500)
    assert answers["bad"].reason is FinishReason.ERROR and answers["good"].reason is FinishReason.LENGTH
    assert len(culprit.failed_with) == 3


def test_failures_of_nobody_in_particular_end_nobody() -> None:
    """Steps fail whenever two requests are in them: each runs alone, and everything is answered."""
    d = Driver(fail=lambda plan: "before" if plan.num_rows > 1 else None, max_num_seqs=4)
    asked = requests(4, random.Random(1))
    d.add(*asked)
    answers = d.run()
    for request in asked:
        assert answers[request.request_id].tokens == alone(request, 64)[0]


def test_a_suspect_that_leaves_holds_nobody_up() -> None:
    culprit = Culprit("bad")
    d = driver(culprit)
    d.add(make_request("bad", [1] * 4), make_request("good", [2] * 4, max_tokens=5))
    while len(culprit.failed_with) < 2:
        d.step()
    d.abort("bad")
    assert d.run(50)["good"].reason is FinishReason.LENGTH
    assert not d.scheduler._suspicion
