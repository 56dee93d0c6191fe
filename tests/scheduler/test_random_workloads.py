"""Thousands of random steps: every block accounted for after each, everybody finishes, tokens as if alone."""

import random

import pytest

from kvasir.errors import QueueFullError
from kvasir.messages import EngineCoreRequest, FinishReason
from tests.scheduler.driver import VOCAB, Driver, alone, make_request

MAX_MODEL_LEN = 48


def random_request(rng: random.Random, name: str, prefixes: list[list[int]], now: float) -> EngineCoreRequest:
    prompt = rng.choice(prefixes)[: rng.randint(0, 24)] + [rng.randrange(VOCAB) for _ in range(rng.randint(1, 12))]
    return make_request(
        name,
        prompt,
        seed=rng.randrange(3),
        arrival=now,
        max_tokens=rng.choice([None, 1, 2, rng.randint(3, 30), rng.randint(3, 30)]),
        min_tokens=rng.choice([0, 0, 1]),
        stop_token_ids=rng.sample(range(VOCAB), rng.choice([0, 5, 60])),
        priority=rng.randint(-2, 2),
        cache_salt=rng.choice([None, None, "a", "b"]),
        client_index=rng.randrange(3),
        logprobs=rng.choice([None, None, None, 2]),
        prompt_logprobs=rng.choice([None, None, None, None, 1]),
        skip_reading_prefix_cache=rng.choice([None, None, None, True]),
    )


def random_driver(rng: random.Random, depth: int, failures: bool) -> Driver:
    left = [25 if failures else 0]  # with failures for ever, a long prompt in small chunks might never get through

    def fail(step: object) -> str | None:
        if not left[0] or rng.random() > 0.1:
            return None
        left[0] -= 1
        return rng.choice(["before", "after"])

    chunked = rng.random() < 0.75
    return Driver(
        depth=depth,
        fail=fail,
        block_size=(block_size := rng.choice([1, 3, 4, 8])),
        num_blocks=-(-MAX_MODEL_LEN // block_size) + rng.choice([0, 1, 5, 40]),
        max_num_seqs=rng.choice([1, 3, 8]),
        max_num_batched_tokens=rng.choice([1, 2, 7, 16, 64]) if chunked else rng.choice([MAX_MODEL_LEN, 100]),
        enable_chunked_prefill=chunked,
        long_prefill_token_threshold=rng.choice([0, 0, 5]) if chunked else 0,
        max_model_len=MAX_MODEL_LEN,
        policy=rng.choice(["fcfs", "priority", "fair", "deadline"]),
        forecast=rng.random() < 0.5,
        max_queued_requests=12,
        max_step_failures=1_000,
        prefix_caching=rng.random() < 0.85,
    )


def check_answers(driver: Driver, requests: dict[str, EngineCoreRequest]) -> None:
    for name, request in requests.items():
        got, (tokens, reason, stop_id) = driver.answers[name], alone(request, MAX_MODEL_LEN)
        assert got.reason is not None, f"{name} never finished"
        if got.reason is FinishReason.ABORT:
            assert got.tokens == tokens[: len(got.tokens)]
            continue
        assert (got.tokens, got.reason, got.stop_token_id) == (tokens, reason, stop_id), name
        if request.params.logprobs is not None:
            assert [entry.token_ids[0] for entry in got.logprobs] == tokens
        if request.params.prompt_logprobs is not None:
            assert [e.token_ids[0] for e in got.prompt_logprobs or []] == request.prompt_token_ids[1:]


def run_workload(seed: int, depth: int, failures: bool, num_requests: int = 30) -> Driver:
    rng = random.Random(seed)
    driver = random_driver(rng, depth, failures)
    prefixes = [[rng.randrange(VOCAB) for _ in range(24)] for _ in range(3)]
    requests: dict[str, EngineCoreRequest] = {}
    pressure = rng.choice([0.2, 0.6, 1.0])
    while len(requests) < num_requests:
        while rng.random() < pressure * 0.7 and len(requests) < num_requests:
            request = random_request(rng, f"r{len(requests)}", prefixes, driver.clock.now)
            try:
                driver.add(request)
            except QueueFullError:
                assert driver.scheduler.num_waiting >= 12
                break
            requests[request.request_id] = request
        if rng.random() < 0.06:
            driver.abort(*rng.sample(sorted(requests), min(len(requests), 2)))
        if rng.random() < 0.03:
            driver.scheduler.reset_prefix_cache()
        driver.clock.advance(rng.random())
        driver.step()
    driver.run()
    check_answers(driver, requests)
    return driver


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("depth", [1, 2], ids=["plain", "overlap"])
@pytest.mark.parametrize("failures", [False, True], ids=["sound", "failing"])
def test_tokens_blocks_and_endings(seed: int, depth: int, failures: bool) -> None:
    run_workload(seed, depth, failures)


@pytest.mark.parametrize("seed", range(1000, 1010))
def test_three_steps_in_flight(seed: int) -> None:
    run_workload(seed, depth=3, failures=True)


def test_the_workloads_reach_what_they_are_for() -> None:
    """Otherwise the tests above could pass by never preempting, hitting, failing or cutting a prompt."""
    preempted = hits = failed = chunks = 0
    for seed in range(12):
        driver = run_workload(seed, depth=1 + seed % 2, failures=True)
        stats = driver.scheduler.make_stats()
        preempted += stats.num_preempted
        hits += stats.prefix_hits
        failed += driver.num_failed
        chunks += sum(not sampled for plan in driver.plans for sampled in plan.samples)
    assert min(preempted, hits, failed, chunks) > 50, (preempted, hits, failed, chunks)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_many_more(depth: int) -> None:
    for seed in range(10_000, 10_400):
        run_workload(seed, depth, failures=seed % 2 == 0)
