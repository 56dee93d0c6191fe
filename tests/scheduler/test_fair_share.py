"""Shares by weight, whatever one caller queues, and nobody starves."""

import pytest

from kvasir.scheduler import FairSharePolicy
from kvasir.scheduler.policies.fair import MAX_TENANTS, OUTPUT_COST
from kvasir.testing.simulation import Report, Simulation, jain
from tests.scheduler.driver import Driver, alone, make_request
from tests.scheduler.test_seams import make, names
from tests.scheduler.traces import MACHINE, chat

SECONDS = 60


def run(policy: str, *traces) -> Report:
    """Everybody has more to do than they get, to the end."""
    trace = [arrival for part in traces for arrival in part]
    return Simulation(trace, MACHINE, policy=policy).run(lambda s: s.clock.now > SECONDS, snapshot_s=5.0)


def service(report: Report, since: float = 10.0) -> dict[str, float]:
    """Cost of what each tenant got after `since`, by its weight."""
    got: dict[str, float] = {}
    for story in report.admitted:
        tenant, weight = story.arrival.tenant, story.arrival.weight
        if story.first_token >= since:
            cost = story.arrival.num_prompt + OUTPUT_COST * story.num_tokens
            got[tenant] = got.get(tenant, 0.0) + cost / weight
    return got


def crowd():
    return (
        chat(30, SECONDS, seed=1, tenant="hog"),
        chat(4, SECONDS, seed=2, tenant="plain"),
        chat(5, SECONDS, seed=3, tenant="short answers", mean_output=100),
        chat(4, SECONDS, seed=4, tenant="long prompts", prompt=(500, 2000)),
    )


def test_shares_are_equal_however_much_one_sends():
    assert jain(service(run("fcfs", *crowd())).values()) < 0.7
    assert jain(service(run("fair", *crowd())).values()) > 0.95


def test_shares_follow_weights():
    report = run("fair", *(chat(8, SECONDS, seed=w, tenant=f"w{w}", weight=float(w)) for w in (1, 2, 4)))
    assert jain(service(report).values()) > 0.95
    tokens = service(report)
    assert tokens["w4"] * 4 > 3 * tokens["w1"]


def test_a_light_caller_hardly_notices_the_heavy_one():
    light = chat(0.5, SECONDS, seed=9, tenant="light")
    for policy, bound in (("fcfs", None), ("fair", 4.0)):
        report = run(policy, chat(30, SECONDS, seed=1, tenant="hog"), light)
        waits = [s.ttft_s for s in report.stories if s.arrival.tenant == "light" and s.first_token >= 0.0]
        served = len(waits) / len([a for a in light if a.at < SECONDS - 5])
        if bound is None:
            assert served < 0.6
        else:
            assert served > 0.95 and max(waits) < bound


def test_no_saving_up():
    """Who was away for a while gets no more than the others from then on."""
    away = [a for a in chat(20, SECONDS, seed=2, tenant="late") if a.at > 20]
    report = run("fair", chat(20, SECONDS, seed=1, tenant="early"), away)
    both = service(report, since=25.0)
    assert jain(both.values()) > 0.95


def test_nobody_starves_within_a_tenant():
    """Ageing: the least urgent are placed too, though more urgent ones never stop coming."""
    report = run("fair", chat(1, 10, seed=1, tenant="a", priority=1), chat(9, SECONDS, seed=2, tenant="a", priority=0))
    patient = [s for s in report.stories if s.arrival.priority == 1]
    assert patient and all(0.0 <= s.ttft_s < 50.0 for s in patient)


def test_the_tenant_served_least_is_next():
    policy = FairSharePolicy()
    for i, tenant in enumerate("aaabbc"):
        policy.push(make(f"{tenant}{i}", arrival=i, tenant=tenant))
    assert names(policy) == ["a0", "b3", "c5", "a1", "b4", "a2"]
    first = next(policy.order(0.0))
    policy.remove(first)
    policy.charge(first, 100)
    assert names(policy) == ["b3", "c5", "b4", "a1", "a2"]
    assert len(policy) == 5


def test_preempted_requests_go_first_of_their_tenant_in_their_old_order():
    policy = FairSharePolicy()
    requests = [make(str(i), arrival=i, tenant="a") for i in range(4)]
    for req in requests:
        policy.push(req)
    for req in requests[:2]:
        policy.remove(req)
        req.was_placed = True
    for req in reversed(requests[:2]):
        policy.push(req)
    assert names(policy) == ["0", "1", "2", "3"]


def test_tenants_are_bounded():
    policy = FairSharePolicy()
    for i in range(MAX_TENANTS + 100):
        req = make(str(i), tenant=f"t{i}")
        policy.push(req)
        policy.remove(req)
    assert len(policy._tenants) == MAX_TENANTS


@pytest.mark.parametrize("policy", ["fair", "deadline"])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_order_changes_no_token(policy, depth):
    d = Driver(num_blocks=18, policy=policy, depth=depth)
    requests = [
        make_request(str(i), [i] * (5 + i), max_tokens=20, tenant="abc"[i % 3], deadline=float(100 - i))
        for i in range(9)
    ]
    d.add(*requests)
    answers = d.run()
    for request in requests:
        assert answers[request.request_id].tokens == alone(request, 64)[0]


def test_shortest_deadline_first():
    d = Driver(policy="deadline", max_num_seqs=1)
    d.add(
        make_request("unsaid", [1], max_tokens=1, arrival=0.0),
        make_request("far", [2], max_tokens=1, arrival=1.0, deadline=90.0),
        make_request("near", [3], max_tokens=1, arrival=2.0, deadline=10.0),
    )
    d.run()
    assert [new.request_id for plan in d.plans for new in plan.new_requests] == ["near", "unsaid", "far"]
