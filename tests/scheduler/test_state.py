"""What a scheduler says of itself to people who watch it."""

from kvasir.messages import Reply
from kvasir.messages.state import MAX_LISTED, EngineState
from kvasir.messages.wire import copy
from tests.scheduler.driver import Driver, make_request


def prompt(n: int, base: int = 0) -> list[int]:
    return list(range(base, base + n))


def test_counts_requests_and_blocks():
    d = Driver(max_num_seqs=2, num_blocks=16, block_size=4, max_num_batched_tokens=6)
    d.add(*(make_request(n, prompt(8, 100 * i), max_tokens=4, arrival=i) for i, n in enumerate("abc")))
    d.step()
    state = d.scheduler.make_state()
    assert (state.num_running, state.num_waiting) == (1, 2)
    (a,) = state.running
    assert (a.request_id, a.state, a.num_prompt_tokens, a.num_computed_tokens) == ("a", "running", 8, 6)
    assert (a.num_blocks, a.num_output_tokens, a.arrival_time) == (2, 0, 0.0)
    assert [r.request_id for r in state.waiting] == ["b", "c"] and {r.num_blocks for r in state.waiting} == {0}
    assert (state.num_steps, state.num_step_tokens) == (1, 6)
    assert (state.num_blocks, state.num_used_blocks, state.blocks_per_cell) == (16, 2, 1)
    assert state.block_map == "22" + "0" * 14
    d.run()
    state = d.scheduler.make_state()
    assert (state.num_running, state.num_waiting, state.num_used_blocks) == (0, 0, 0)
    assert state.running == state.waiting == []
    assert state.block_map.count("1") == state.num_cached_blocks > 0
    assert state.num_step_tokens == 3 * (8 + 3), "the last token of each is not computed"


def test_shared_prefixes_are_seen_as_shared():
    d = Driver(block_size=4)
    d.add(make_request("a", prompt(9), max_tokens=9))
    d.step()
    d.add(make_request("b", prompt(9), max_tokens=9))
    d.step()
    state = d.scheduler.make_state()
    assert state.block_map.count("3") == 2
    assert state.running[1].num_cached_tokens == 8


def test_looking_changes_nothing():
    """The sums that /metrics takes are still there, and the tokens are the same."""
    watched, alone = Driver(), Driver()
    for d in (watched, alone):
        d.add(make_request("a", prompt(5), max_tokens=6))
    while watched.scheduler.has_work():
        watched.step()
        alone.step()
        watched.scheduler.make_state()
    assert watched.answers["a"].tokens == alone.answers["a"].tokens
    assert watched.scheduler.make_stats().num_scheduled_tokens == alone.scheduler.make_stats().num_scheduled_tokens > 0


def test_lists_are_bounded_and_counts_are_not():
    d = Driver(max_num_seqs=2, max_queued_requests=2000)
    d.add(*(make_request(str(i), prompt(3), arrival=i) for i in range(600)))
    state = d.scheduler.make_state()
    assert state.num_waiting == 600 and len(state.waiting) == MAX_LISTED


def test_it_crosses_the_wire_as_plain_names():
    d = Driver()
    d.add(make_request("a", prompt(5)))
    value = copy(Reply(1, d.scheduler.make_state())).value
    assert set(value) == set(EngineState.__struct_fields__) and value["waiting"][0]["request_id"] == "a"
