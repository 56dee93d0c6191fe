"""The fake worker catches a core that tells it wrong things; else the tests that rely on it show nothing."""

import pytest

from kvasir.messages import SamplingParams, SchedulerOutput, SlotRequest
from kvasir.testing.clock import ManualClock
from kvasir.testing.fake_executor import ContractError, FakeExecutor, StepFailure, expected_tokens
from kvasir.testing.recorder import StepRecorder


def make(**kw):
    executor = FakeExecutor(8, 4, 2, 32, **kw)
    executor.start()
    return executor


def new(slot=0, tokens=(1, 2, 3, 4, 5), blocks=(0, 1), computed=0, name="a"):
    return SlotRequest(name, slot, list(tokens), len(tokens), computed, list(blocks), SamplingParams(), 0)


def plan(step_id=0, slots=(0,), scheduled=(5,), computed=(0,), samples=(True,), **kw):
    kw.setdefault("num_new_blocks", [0] * len(slots))
    return SchedulerOutput(step_id, list(slots), list(scheduled), list(computed), list(samples), **kw)


def run(executor, step):
    executor.execute_model(step)
    return executor.sample_tokens(step.step_id).result()


def test_tokens_follow_from_what_is_in_the_blocks():
    executor = make()
    assert run(executor, plan(new_requests=[new()])).token_ids == expected_tokens([1, 2, 3, 4, 5], 0, 1)
    second = run(executor, plan(1, scheduled=[1], computed=[5]))
    assert second.token_ids == expected_tokens([1, 2, 3, 4, 5], 0, 2)[1:]


@pytest.mark.parametrize(
    ("step", "what"),
    [
        (plan(1, scheduled=[2], computed=[5]), "has 6 tokens, told to compute up to 7"),
        (plan(1, scheduled=[1], computed=[4]), "has 5 computed, told 4"),
        (plan(1, scheduled=[1], computed=[5], samples=[False]), "samples at the wrong place"),
        (plan(1, slots=[1], scheduled=[1], computed=[5]), "slot 1, which is empty"),
        (plan(0, scheduled=[1], computed=[5]), "step 0 after step 0"),
        (plan(1, scheduled=[1], computed=[5], freed_slots=[1]), "slot 1 is freed and was not in use"),
        (plan(1, scheduled=[1], computed=[5], num_new_blocks=[1], new_block_ids=[1]), "given a block it has"),
        (plan(1, scheduled=[1], computed=[5], num_new_blocks=[1], new_block_ids=[8]), "block 8 of 8"),
        (plan(1, new_requests=[new(name="b")]), "slot 0 is given to b and is in use"),
        (plan(1, slots=[1], new_requests=[new(1, blocks=[2], name="b")]), "no block for token 4"),
        (plan(1, [1], [1], [4], new_requests=[new(1, [9, 9, 9, 9, 9], [0, 2], 4, "b")]), "b finds"),
        (plan(1, [1], [1], [4], new_requests=[new(1, blocks=[3, 2], computed=4, name="b")]), "never written"),
    ],
)
def test_contradictions_are_caught(step, what):
    executor = make()
    run(executor, plan(new_requests=[new()]))
    with pytest.raises(ContractError, match=what):
        run(executor, step)


def test_a_wrong_block_changes_the_tokens_even_unverified():
    executor = make(verify=False)
    run(executor, plan(new_requests=[new()]))
    wrong = new(1, [9, 9, 9, 9, 5], [0, 2], 4, "b")
    result = run(executor, plan(1, [1], [1], [4], new_requests=[wrong]))
    assert result.token_ids != expected_tokens([9, 9, 9, 9, 5], 0, 1)


def test_scripted_failures_and_delays():
    executor = make(failures={0: "before", 1: "after"}, delays={2: 0.01})
    executor.execute_model(plan(0, new_requests=[new()]))
    executor.execute_model(plan(1, new_requests=[new()]))
    executor.execute_model(plan(2, freed_slots=[0], new_requests=[new()]))
    third, second, first = (executor.sample_tokens(i) for i in (2, 1, 0))
    for future in (first, second):
        with pytest.raises(StepFailure):
            future.result()
    assert third.result().token_ids == expected_tokens([1, 2, 3, 4, 5], 0, 1) and third.result().step_s >= 0.01
    executor.stop()


def test_the_recorder_keeps_pairs_and_failures():
    recorder = StepRecorder(make(failures={1: "before"}))
    first = run(recorder, plan(0, new_requests=[new()]))
    with pytest.raises(StepFailure):
        run(recorder, plan(1, scheduled=[1], computed=[5]))
    assert recorder.steps == [(plan(0, new_requests=[new()]), first)]
    assert [step.step_id for step, _ in recorder.failed] == [1]


def test_the_clock_stands_still_until_told():
    clock = ManualClock(5.0)
    assert clock() == clock() == 5.0
    assert clock.advance(1.5) == clock() == 6.5
