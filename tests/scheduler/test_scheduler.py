import pytest

from kvasir.errors import ConfigError, EngineError, PromptTooLongError, QueueFullError, UserError
from kvasir.messages import FinishReason, ModelRunnerOutput
from kvasir.scheduler import Request, RequestState, SchedulerSettings
from kvasir.testing.fake_executor import expected_tokens
from tests.scheduler.driver import Driver, make_request


def prompt(n: int, base: int = 0) -> list[int]:
    return list(range(base, base + n))


# ---- planning


def test_one_budget_running_first_then_waiting_in_chunks():
    d = Driver(max_num_batched_tokens=10)
    d.add(make_request("a", prompt(4), max_tokens=9))
    assert d.step().num_scheduled_tokens == [4]
    d.add(make_request("b", prompt(20, 100), max_tokens=2), make_request("c", prompt(3, 200), max_tokens=2, arrival=1))
    plans = [d.step() for _ in range(3)]
    assert [p.num_scheduled_tokens for p in plans] == [[1, 9], [1, 9], [1, 2, 3]]
    assert [p.samples for p in plans] == [[True, False], [True, False], [True, True, True]]
    assert plans[1].new_requests == [] and plans[1].num_computed_tokens == [5, 9]
    d.run()


def test_long_prompts_may_be_held_to_a_threshold():
    d = Driver(max_num_batched_tokens=10, long_prefill_token_threshold=4)
    d.add(make_request("a", prompt(9)), make_request("b", prompt(3, 50)))
    assert d.step().num_scheduled_tokens == [4, 3]


def test_without_chunks_a_prompt_runs_whole_or_waits():
    with pytest.raises(ConfigError, match=r"max_num_batched_tokens \(16\) must be at least max_model_len \(64\)"):
        SchedulerSettings(4, 16, 64, enable_chunked_prefill=False)
    d = Driver(max_num_batched_tokens=64, enable_chunked_prefill=False)
    d.add(make_request("a", prompt(40)), make_request("b", prompt(30, 50)), make_request("c", prompt(3, 90)))
    assert d.step().num_scheduled_tokens == [40]  # c does not overtake b
    assert d.step().num_scheduled_tokens == [1, 30, 3]


def test_slots_are_the_lowest_free_and_freed_ones_are_named_once():
    d = Driver(max_num_seqs=2)
    d.add(*(make_request(n, prompt(2, 10 * i), max_tokens=1 + 2 * i, arrival=i) for i, n in enumerate("abc")))
    assert d.step().slots == [0, 1]
    second = d.step()
    assert (second.freed_slots, second.new_requests[0].slot, second.slots) == ([0], 0, [1, 0])
    assert d.step().freed_slots == []
    d.run()


def test_an_empty_plan_says_nothing_and_keeps_what_is_to_be_said():
    d = Driver()
    d.add(make_request("a", prompt(2), max_tokens=1))
    d.step()
    empty = d.scheduler.schedule()
    assert empty.num_rows == 0 and empty.freed_slots == []
    assert d.scheduler.update_from_output(empty, ModelRunnerOutput(empty.step_id)) == {}
    assert not d.scheduler.has_work()
    d.add(make_request("b", prompt(2)))
    assert d.step().freed_slots == [0]


# ---- what is refused


def test_refusals_name_value_and_bound():
    d = Driver(num_blocks=8, max_num_seqs=1, max_queued_requests=1)
    with pytest.raises(PromptTooLongError, match="64 tokens and the context is 64"):
        d.scheduler.add_request(make_request("a", prompt(64)))
    with pytest.raises(PromptTooLongError, match=r"33 tokens and the KV cache holds 32 \(8 blocks of 4\)"):
        d.scheduler.add_request(make_request("a", prompt(33)))
    with pytest.raises(UserError, match="empty prompt"):
        d.scheduler.add_request(make_request("a", []))
    with pytest.raises(UserError, match="2 output tokens already and max_tokens is 2"):
        d.scheduler.add_request(make_request("a", [1], output_token_ids=[1, 2], max_tokens=2))
    d.add(make_request("runs", prompt(3)))  # its place is free: it is not queueing
    d.add(make_request("a", prompt(3)))
    with pytest.raises(QueueFullError, match="1 requests are queued already and the bound is 1"):
        d.scheduler.add_request(make_request("b", prompt(3)))
    d.scheduler.abort_requests(["runs"])
    with pytest.raises(UserError, match="'a' is in use"):
        d.scheduler.add_request(make_request("a", prompt(3)))
    d.run()
    with pytest.raises(ConfigError, match="got 'fastest'"):
        Driver(policy="fastest")


def test_a_request_that_outgrows_the_cache_ends_with_an_error():
    d = Driver(num_blocks=4)
    d.add(make_request("a", prompt(10), max_tokens=None), make_request("b", prompt(3, 50), max_tokens=8))
    answers = d.run()
    a, b = answers["a"], answers["b"]
    assert a.reason is FinishReason.ERROR and "holds 16 tokens" in a.error and "10 of prompt and 7 of output" in a.error
    assert a.tokens == expected_tokens(prompt(10), 0, 7)
    assert b.reason is FinishReason.LENGTH and b.tokens == expected_tokens(prompt(3, 50), 0, 8)


# ---- endings


@pytest.mark.parametrize("depth", [1, 2])
def test_stop_rules(depth):
    d = Driver(depth=depth, max_model_len=20)
    tokens = expected_tokens(prompt(4), 0, 30)
    d.add(
        make_request("stop", prompt(4), stop_token_ids=[tokens[3], 5], max_tokens=10),
        make_request("min", prompt(4), stop_token_ids=[tokens[3], tokens[6]], min_tokens=5, max_tokens=10),
        make_request("length", prompt(4), max_tokens=3),
        make_request("context", prompt(4), max_tokens=None),
    )
    a = d.run()
    assert (a["stop"].tokens, a["stop"].reason, a["stop"].stop_token_id) == (tokens[:4], FinishReason.STOP, tokens[3])
    assert (a["min"].tokens, a["min"].stop_token_id) == (tokens[:7], tokens[6])
    assert (a["length"].tokens, a["length"].reason) == (tokens[:3], FinishReason.LENGTH)
    assert (a["context"].tokens, a["context"].reason) == (tokens[:16], FinishReason.LENGTH)


def test_not_planned_past_max_tokens():
    d = Driver(depth=2)
    d.add(make_request("a", prompt(4), max_tokens=3))
    d.run()
    assert len(d.plans) == 3


def test_several_tokens_in_a_row_are_cut_at_the_first_stop():
    d = Driver()
    d.add(make_request("a", prompt(4), stop_token_ids=[9], max_tokens=10, logprobs=1))
    plan = d.scheduler.schedule()
    out = d.scheduler.update_from_output(plan, ModelRunnerOutput(plan.step_id, [4], [7, 8, 9, 9]))[0]
    assert (out.token_ids, out.num_new, out.finished[0].stop_token_id) == ([7, 8, 9], [3], 9)
    d.add(make_request("b", prompt(4), max_tokens=10))
    plan = d.scheduler.schedule()
    d.scheduler.update_from_output(plan, ModelRunnerOutput(plan.step_id, [3], [7, 8, 7]))
    assert d.scheduler.schedule().num_computed_tokens == [6]  # the drafts' KV is there, the newest token's is not


@pytest.mark.parametrize("depth", [1, 2])
def test_a_rows_error_ends_that_request_only(depth):
    d = Driver(depth=depth)
    d.executor.row_errors["b"] = "its processor raised"
    d.add(*(make_request(n, prompt(4, 10 * i), max_tokens=5) for i, n in enumerate("abc")))
    answers = d.run()
    assert (answers["b"].reason, answers["b"].error) == (FinishReason.ERROR, "its processor raised")
    assert all(len(answers[n].tokens) == 5 for n in "ac")


def test_a_sampling_row_without_a_token_is_an_error_not_a_hang():
    d = Driver()
    d.add(make_request("a", prompt(4)))
    plan = d.scheduler.schedule()
    out = d.scheduler.update_from_output(plan, ModelRunnerOutput(plan.step_id, [0]))[0]
    assert "sampled no token" in out.finished[0].error


def test_abort_at_any_moment():
    d = Driver(depth=2, max_num_seqs=2)
    d.add(*(make_request(n, prompt(6, 10 * i), max_tokens=9) for i, n in enumerate("abc")))
    d.step()
    d.abort("a", "c", "nobody")  # in flight; waiting; unknown
    assert d.kv.num_used_blocks == 2
    d.add(make_request("a", prompt(5, 90), max_tokens=4))  # the same id, and it will get the same slot
    answers = d.run()
    assert answers["a"].tokens == expected_tokens(prompt(5, 90), 0, 4)
    assert answers["b"].tokens == expected_tokens(prompt(6, 10), 0, 9)


def test_a_result_is_taken_once_and_must_fit_its_plan():
    d = Driver()
    d.add(make_request("a", prompt(4)))
    plan = d.scheduler.schedule()
    d.scheduler.update_from_output(plan, ModelRunnerOutput(plan.step_id, [1], [3]))
    with pytest.raises(EngineError, match="not in flight"):
        d.scheduler.update_from_output(plan, ModelRunnerOutput(plan.step_id, [1], [3]))
    plan = d.scheduler.schedule()
    with pytest.raises(EngineError, match="1 rows; the result is of step 7 with 2 rows"):
        d.scheduler.update_from_output(plan, ModelRunnerOutput(7, [1, 1], [3, 3]))


# ---- preemption


@pytest.mark.parametrize("depth", [1, 2])
def test_preempted_requests_lose_their_slot_and_come_back_in_full(depth):
    d = Driver(depth=depth, num_blocks=8, max_num_seqs=2)
    d.add(make_request("a", prompt(10), max_tokens=12), make_request("b", prompt(10, 50), max_tokens=12, arrival=1))
    answers = d.run()
    assert answers["a"].tokens == expected_tokens(prompt(10), 0, 12)
    assert answers["b"].tokens == expected_tokens(prompt(10, 50), 0, 12)
    back = [(plan, new) for plan in d.plans for new in plan.new_requests][2:]
    assert back and all(new.request_id == "b" for _, new in back)
    new = back[0][1]
    assert new.num_prompt_tokens == 10 and new.token_ids[:10] == prompt(10, 50)
    assert new.token_ids[10:] == answers["b"].tokens[: len(new.token_ids) - 10]
    assert sum(plan.freed_slots.count(1) for plan in d.plans) >= len(back)
    assert d.scheduler.make_stats().num_preempted == len(back)


def test_a_preempted_request_finds_its_blocks_again():
    d = Driver(num_blocks=16, max_num_batched_tokens=64)
    d.add(make_request("a", prompt(12), max_tokens=4))
    d.step()
    req = d.scheduler.running.pop()
    d.scheduler._preempt(req)
    new = d.step().new_requests[0]
    assert new.num_computed_tokens == 12 and new.num_prompt_tokens == 12 and len(new.token_ids) == 13
    assert d.run()["a"].tokens == expected_tokens(prompt(12), 0, 4)


def test_a_preempted_request_waits_for_its_token_in_flight():
    d = Driver(depth=2)
    d.add(make_request("a", prompt(6), max_tokens=4))
    d.step()
    d.scheduler._preempt(d.scheduler.running.pop())
    assert d.scheduler.schedule().num_rows == 0
    d.land()
    assert d.answers["a"].tokens == expected_tokens(prompt(6), 0, 1)
    assert d.run()["a"].tokens == expected_tokens(prompt(6), 0, 4)


def test_it_may_end_by_that_token():
    d = Driver(depth=2)
    d.add(make_request("a", prompt(6), max_tokens=1))
    d.step()
    d.scheduler._preempt(d.scheduler.running.pop())
    assert d.run()["a"].reason is FinishReason.LENGTH


def test_states_have_legal_transitions_only():
    req = Request(make_request("a", [1]), Driver().kv.chain(), 64, 64)
    with pytest.raises(EngineError, match="a cannot go from waiting to preempted"):
        req.become(RequestState.PREEMPTED)
    req.become(RequestState.FINISHED)
    with pytest.raises(EngineError, match="from finished to running"):
        req.become(RequestState.RUNNING)


# ---- prefixes, log-probabilities, resumption


def test_prefix_hits_are_counted_once_and_told_with_the_first_token():
    d = Driver(num_blocks=9, max_num_batched_tokens=64)
    d.add(make_request("a", prompt(16), max_tokens=2))
    d.run()
    d.scheduler.make_stats()
    d.add(make_request("b", prompt(16) + [99], max_tokens=14), make_request("c", prompt(5, 500), max_tokens=14))
    answers = d.run()
    stats = d.scheduler.make_stats()
    assert stats.num_preempted > 0
    assert (stats.prefix_queries, stats.prefix_hits) == (17 + 5, 16)
    assert (answers["b"].num_cached, answers["c"].num_cached) == (16, 0)


def test_a_prefix_is_shared_within_the_step_that_computes_it():
    d = Driver(max_num_batched_tokens=64)
    d.add(make_request("a", prompt(17), max_tokens=3), make_request("b", prompt(16) + [99], max_tokens=3))
    assert d.step().num_scheduled_tokens == [17, 1]
    assert d.run()["b"].tokens == expected_tokens(prompt(16) + [99], 0, 3)


def test_output_blocks_are_findable_by_the_next_turn():
    d = Driver(max_num_batched_tokens=64)
    d.add(make_request("a", prompt(6), max_tokens=7))
    tokens = d.run()["a"].tokens
    d.add(make_request("b", prompt(6) + tokens + [1], max_tokens=2))
    assert d.step().new_requests[0].num_computed_tokens == 12
    d.run()


@pytest.mark.parametrize("depth", [1, 2])
def test_prompt_logprobs_are_whole_in_chunks_and_after_preemption(depth):
    d = Driver(depth=depth, max_num_batched_tokens=5)
    d.add(make_request("warm", prompt(12), max_tokens=1))
    d.run()
    d.add(make_request("a", prompt(14), max_tokens=3, prompt_logprobs=1))
    d.step()
    d.step()
    d.scheduler._preempt(d.scheduler.running.pop())
    got = d.run()["a"]
    assert [entry.token_ids[0] for entry in got.prompt_logprobs] == prompt(14)[1:]
    assert got.num_cached == 0 and len(got.tokens) == 3


def test_cache_reads_can_be_declined():
    d = Driver(max_num_batched_tokens=64)
    d.add(make_request("a", prompt(9), max_tokens=1))
    d.run()
    d.add(make_request("b", prompt(9), max_tokens=1, skip_reading_prefix_cache=True))
    assert d.step().num_scheduled_tokens == [9]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_resumed_request_goes_on_where_it_was(depth):
    d = Driver(depth=depth)
    tokens = expected_tokens(prompt(5), 3, 9)
    d.add(make_request("a", prompt(5), seed=3, max_tokens=9, output_token_ids=tokens[:4], prompt_logprobs=0))
    first = d.step().new_requests[0]
    assert (first.token_ids, first.num_prompt_tokens) == (prompt(5) + tokens[:4], 5)
    answer = d.run()["a"]  # the driver checks that first_index is 4
    assert answer.tokens == tokens and answer.prompt_logprobs is None


def test_outputs_go_to_who_asked():
    d = Driver()
    d.add(make_request("a", prompt(3), client_index=0), make_request("b", prompt(4, 9), client_index=2))
    plan = d.scheduler.schedule()
    outs = d.scheduler.update_from_output(plan, ModelRunnerOutput(plan.step_id, [1, 1], [5, 6]))
    assert {c: (o.request_ids, o.token_ids) for c, o in outs.items()} == {0: (["a"], [5]), 2: (["b"], [6])}


# ---- failures


@pytest.mark.parametrize("mode", ["before", "after"])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("step_id", range(6))
def test_a_failed_step_is_made_up_for(mode, depth, step_id):
    d = Driver(depth=depth, fail=lambda step: mode if step.step_id == step_id else None)
    d.add(make_request("a", prompt(20), max_tokens=6), make_request("b", prompt(18) + [1], max_tokens=6, arrival=1))
    answers = d.run()
    assert d.num_failed == 1
    assert answers["a"].tokens == expected_tokens(prompt(20), 0, 6)
    assert answers["b"].tokens == expected_tokens(prompt(18) + [1], 0, 6)


@pytest.mark.parametrize("depth", [1, 2])
def test_who_is_in_failing_steps_only_is_given_up(depth):
    d = Driver(depth=depth, fail=lambda step: "before")
    d.add(make_request("a", prompt(4)))
    answer = d.run(20)["a"]
    assert answer.reason is FinishReason.ERROR and "the 3. failure in a row for request a: step" in answer.error
    d.fail = lambda step: None
    d.add(make_request("b", prompt(4), max_tokens=3))
    assert d.run()["b"].tokens == expected_tokens(prompt(4), 0, 3)


def test_slots_freed_by_a_failed_step_are_named_again_unless_in_use():
    d = Driver(max_num_seqs=4, fail=lambda step: "before" if step.step_id == 1 else None)
    d.add(*(make_request(n, prompt(2, 10 * i), max_tokens=1 if n.islower() else 9) for i, n in enumerate("Abcd")))
    d.step()
    d.add(make_request("E", prompt(2, 70), max_tokens=4))
    failed = d.step()
    assert sorted(failed.freed_slots) == [1, 2, 3] and failed.new_requests[0].slot == 1
    retry = d.step()
    assert sorted(retry.freed_slots) == [0, 1, 2, 3] and sorted(retry.slots) == [0, 1]
    d.run()


def test_nobody_overtakes_a_victim_that_waits_for_its_token():
    d = Driver(depth=2, num_blocks=8, max_num_seqs=3)
    d.add(make_request("a", prompt(11), max_tokens=12), make_request("b", prompt(11, 50), max_tokens=12, arrival=1))
    d.step()
    while d.scheduler.num_running == 2 or d.scheduler.num_waiting == 0:
        d.add(make_request(f"c{len(d.answers)}", prompt(1, 90), max_tokens=1, arrival=2))
        before = d.scheduler.make_stats().num_preempted
        plan = d.step()
        if d.scheduler.make_stats().num_preempted > before:
            assert plan.new_requests == []
            return
    raise AssertionError("nobody was preempted")


def test_some_blocks_are_kept_for_those_who_run():
    d = Driver(num_blocks=100, block_size=1, max_num_batched_tokens=100, max_model_len=101)
    d.add(make_request("a", prompt(50), max_tokens=1), make_request("b", prompt(50, 200), max_tokens=1, arrival=1))
    assert d.step().num_rows == 1
    d.run()
    d.add(make_request("c", prompt(100, 400), max_tokens=1))  # alone, it may have them all
    assert d.step().num_rows == 1
    d.run()


def test_stats():
    d = Driver(num_blocks=10, max_num_seqs=1)
    d.add(make_request("a", prompt(9), max_tokens=3), make_request("b", prompt(3, 50)))
    d.step()
    stats = d.scheduler.make_stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_total, stats.kv_blocks_used) == (1, 1, 10, 3)
    assert stats.num_scheduled_tokens == 9 and stats.step_s > 0
    assert d.scheduler.make_stats().num_scheduled_tokens == 0


def test_reset_prefix_cache():
    d = Driver()
    d.add(make_request("a", prompt(9), max_tokens=2))
    d.step()
    assert not d.scheduler.reset_prefix_cache()
    d.run()
    assert d.scheduler.reset_prefix_cache()
    d.add(make_request("b", prompt(9), max_tokens=2))
    assert d.step().num_scheduled_tokens == [9]
