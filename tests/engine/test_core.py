import pytest

from kvasir.errors import QueueFullError
from kvasir.messages import Control, FinishReason
from kvasir.testing.fake_executor import expected_tokens
from tests.engine.cores import VOCAB, Heard, fake_core, request

PROMPTS = {f"r{i}": [(7 * i + j) % 250 for j in range(3 + 5 * i)] for i in range(12)}


def expected(request_id: str, count: int = 8) -> list[int]:
    return expected_tokens(PROMPTS[request_id], 1, count, VOCAB)


@pytest.fixture(autouse=True)
def audited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVASIR_CHECK_MESSAGES", "1")
    monkeypatch.setenv("KVASIR_CHECK_INTEGRITY", "1")


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("num_blocks", [20, 200])
def test_both_loops_give_what_each_request_gives_alone(overlap: bool, num_blocks: int) -> None:
    core = fake_core(overlap=overlap, num_blocks=num_blocks)
    for request_id, prompt in PROMPTS.items():
        core.add_request(request(request_id, prompt))
    heard = Heard().run(core)
    assert heard.tokens == {r: expected(r) for r in PROMPTS}
    assert {f.reason for f in heard.finished.values()} == {FinishReason.LENGTH}


def test_the_overlapped_loop_launches_a_step_before_it_reads_the_last() -> None:
    core = fake_core(overlap=True)
    core.add_request(request("r3", PROMPTS["r3"]))
    heard = Heard()
    for turn in range(4):
        said = core.step()[0] if turn else None
        if turn == 0:
            assert all(not out.request_ids for out in core.step().values())  # step 0 is launched, nothing is read
        else:
            assert said.step_id == turn - 1
            heard.take(said)
        assert core.executor.num_steps == turn + 1
    assert heard.run(core).tokens["r3"] == expected("r3")


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_failed_step_costs_no_token(overlap: bool, when: str) -> None:
    core = fake_core(overlap=overlap, failures={3: when, 7: when})
    for request_id, prompt in PROMPTS.items():
        core.add_request(request(request_id, prompt))
    assert Heard().run(core).tokens == {r: expected(r) for r in PROMPTS}


@pytest.mark.parametrize("overlap", [False, True])
def test_steps_that_always_fail_end_their_requests_with_the_reason(overlap: bool) -> None:
    core = fake_core(overlap=overlap, failures=dict.fromkeys(range(1000), "before"))
    core.add_request(request("r0", PROMPTS["r0"]))
    ended = Heard().run(core).finished["r0"]
    assert ended.reason is FinishReason.ERROR
    assert "StepFailure" in ended.error


def test_one_requests_error_is_its_own() -> None:
    core = fake_core(row_errors={"r2": "no token could be chosen"})
    for request_id in ("r1", "r2", "r4"):
        core.add_request(request(request_id, PROMPTS[request_id]))
    heard = Heard().run(core)
    assert heard.finished["r2"].error == "no token could be chosen"
    assert [heard.tokens[r] for r in ("r1", "r4")] == [expected("r1"), expected("r4")]


def test_abort_between_any_two_steps_frees_everything() -> None:
    for steps in range(12):
        core = fake_core()
        for request_id, prompt in PROMPTS.items():
            core.add_request(request(request_id, prompt))
        heard = Heard()
        for _ in range(steps):
            for said in core.step().values():
                heard.take(said)
        core.abort_requests(["r1", "r5", "unknown"])
        core.abort_requests(["r5"])
        heard.run(core)
        assert core.scheduler.kv.num_used_blocks == 0
        assert all(heard.tokens[r] == expected(r) for r in PROMPTS if r not in ("r1", "r5"))


def test_a_full_queue_refuses_and_a_refusal_is_answered() -> None:
    core = fake_core(max_queued_requests=1, max_num_seqs=1)
    core.add_request(request("a", [1, 2]))  # takes the one place
    core.add_request(request("b", [1, 2]))  # takes the one place in the queue
    late = request("c", [1, 2])
    with pytest.raises(QueueFullError, match="1 requests are queued already and the bound is 1") as caught:
        core.add_request(late)
    core.reject(late, caught.value)
    heard = Heard().run(core)
    assert heard.finished["c"].reason is FinishReason.ERROR
    assert heard.finished["a"].reason is FinishReason.LENGTH


def test_control_calls_answer_and_never_raise() -> None:
    core = fake_core()
    assert core.control(Control("reset_prefix_cache", {}, 1)).value is True
    unknown = core.control(Control("dance", {}, 2))
    assert unknown.call_id == 2
    assert "unknown control call 'dance'" in unknown.error
    assert "KeyError" in core.control(Control("abort", {}, 3)).error
    assert core.control(Control("stats", {}, 4)).value.num_running == 0


def test_resumed_requests_go_on_where_they_were() -> None:
    core = fake_core(epoch=1)
    known = expected("r6", 3)
    core.add_request(request("r6", PROMPTS["r6"], output_token_ids=known))
    heard = Heard()
    heard.tokens["r6"] = list(known)
    heard.run(core)
    assert heard.tokens["r6"] == expected("r6")


def test_blocks_that_nobody_holds_are_missed_when_the_core_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("kvasir.engine.core.logger.error", lambda text, *values: said.append(text % values))
    core = fake_core()
    core.add_request(request("r3", PROMPTS["r3"]))
    Heard().run(core)
    core.check_idle()
    assert not said
    monkeypatch.setattr(type(core.scheduler.kv), "num_used_blocks", 3)
    core.check_idle()
    assert said == ["3 KV blocks are in use and there is no request: a leak, please report it"]
