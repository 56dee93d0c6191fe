"""The heartbeat's memory: what a reader finds after a writer that may have stopped anywhere."""

import os
import random
import struct
import subprocess
import sys

import pytest

from kvasir.messages import SamplingParams, SchedulerOutput, SlotRequest
from kvasir.utils import heartbeat as module
from kvasir.utils.heartbeat import Heartbeat, Phase, digest


def new(request_id: str, slot: int) -> SlotRequest:
    return SlotRequest(request_id, slot, [1], 1, 0, [0], SamplingParams(), 0)


def step(step_id: int, slots: list[int], computed: list[int], scheduled: list[int], *placed: SlotRequest):
    return SchedulerOutput(
        step_id,
        slots=slots,
        num_scheduled_tokens=scheduled,
        num_computed_tokens=computed,
        samples=[True] * len(slots),
        num_new_blocks=[0] * len(slots),
        new_requests=list(placed),
    )


def test_a_step_is_there_from_launch_to_landing():
    beat = Heartbeat.private(4)
    assert beat.in_flight() == {}
    beat.launch(step(0, [2, 0], [0, 0], [7, 3], new("a", 2), new("b", 0)))
    assert beat.in_flight() == {digest("a"): 7, digest("b"): 3}
    assert (beat.phase, beat.step_id) == (Phase.STEP, 0)
    beat.land(0)
    assert beat.in_flight() == {}


def test_two_steps_in_flight_and_the_furthest_token_of_each():
    beat = Heartbeat.private(4)
    beat.launch(step(6, [2, 0], [0, 0], [7, 3], new("a", 2), new("b", 0)))
    beat.launch(step(7, [2, 1], [7, 0], [1, 1], new("c", 1)))
    assert beat.in_flight() == {digest("a"): 8, digest("b"): 3, digest("c"): 1}
    beat.land(6)
    assert beat.in_flight() == {digest("a"): 8, digest("c"): 1}


def test_a_slot_that_changes_hands_while_its_step_runs_names_the_old_holder():
    beat = Heartbeat.private(2)
    beat.launch(step(0, [1], [0], [5], new("old", 1)))
    beat.launch(step(1, [1], [0], [9], new("new", 1)))
    assert beat.in_flight() == {digest("old"): 5, digest("new"): 9}


def test_each_phase_and_beat_is_seen():
    beat = Heartbeat.private(1)
    seen = [beat.beats]
    for phase in Phase:
        beat.beat(phase)
        assert beat.phase is phase
        seen.append(beat.beats)
    beat.beat()
    assert beat.phase is list(Phase)[-1]
    assert [*seen, beat.beats] == list(range(len(seen) + 1))


def test_more_rows_than_room_are_left_out_and_harm_nothing():
    beat = Heartbeat.private(2)
    beat.launch(step(0, [0, 1, 2], [0, 0, 0], [1, 1, 1], new("a", 0), new("b", 1), new("c", 2)))
    assert beat.in_flight() == {}
    beat.launch(step(1, [1], [1], [1]))
    assert beat.in_flight() == {digest("b"): 2}


class Torn(Exception):
    pass


@pytest.mark.parametrize("seed", range(20))
def test_a_writer_that_dies_between_two_stores_never_names_a_stranger(seed, monkeypatch):
    """Every store is a `pack_into`; the writer is stopped before a random one of them."""
    rng = random.Random(seed)
    beat = Heartbeat.private(3)
    beat.launch(step(0, [0, 1], [4, 5], [1, 1], new("a", 0), new("b", 1)))
    left = rng.randrange(12)

    class Dying:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def pack_into(self, *args):
            nonlocal left
            left -= 1
            if left < 0:
                raise Torn
            self.inner.pack_into(*args)

    for name in ("_HEADER", "_STEP", "_SLOT"):
        monkeypatch.setattr(module, name, Dying(getattr(module, name)))
    monkeypatch.setattr(module, "struct", Dying(struct))
    try:
        beat.launch(step(1, [0, 2], [5, 0], [1, 6], new("c", 0), new("d", 2)))
    except Torn:
        pass
    monkeypatch.undo()
    found = beat.in_flight()
    assert {digest("a"): 5, digest("b"): 6}.items() <= found.items()
    assert found.items() <= {digest("a"): 5, digest("b"): 6, digest("c"): 6, digest("d"): 6}.items()


def test_a_child_writes_and_its_death_leaves_the_record():
    record, fd = Heartbeat.create(4)
    code = f"""
import os
from kvasir.utils.heartbeat import Heartbeat, Phase
from tests.utils.test_heartbeat import new, step
beat = Heartbeat.open({fd})
beat.beat(Phase.LOAD)
beat.launch(step(3, [1], [0], [11], new("deadly", 1)))
os.abort()
"""
    done = subprocess.run([sys.executable, "-c", code], pass_fds=(fd,), stderr=subprocess.DEVNULL)
    os.close(fd)
    assert done.returncode < 0
    assert (record.phase, record.step_id, record.in_flight()) == (Phase.STEP, 3, {digest("deadly"): 11})
