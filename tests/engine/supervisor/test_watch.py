"""When silence is an alarm."""

import pytest

from kvasir.engine.supervisor.watch import POLL_S, Deadlines, Watch
from kvasir.utils.heartbeat import Phase

DEADLINES = Deadlines(load_s=10.0, compile_s=20.0, step_s=5.0, idle_s=3.0)


def looks(watch: Watch, phase: Phase, count: int, *, beats: int = 7, pending: bool = True, elapsed_s: float = POLL_S):
    return [watch.look(beats, phase, pending=pending, elapsed_s=elapsed_s) for _ in range(count)]


@pytest.mark.parametrize(
    ("phase", "deadline_s"),
    [(Phase.START, 10), (Phase.LOAD, 10), (Phase.COMPILE, 20), (Phase.CAPTURE, 20), (Phase.STEP, 5), (Phase.IDLE, 3)]
    + [(Phase.CALL, 10)],
)
def test_each_phase_has_its_deadline(phase: Phase, deadline_s: float) -> None:
    found = looks(Watch(DEADLINES), phase, 200)
    first = next(i for i, silent_s in enumerate(found) if silent_s is not None)
    assert first * POLL_S == pytest.approx(deadline_s + POLL_S)
    assert found[first] > deadline_s


def test_a_beat_starts_the_time_anew() -> None:
    watch = Watch(DEADLINES)
    for beats in range(50):
        assert looks(watch, Phase.STEP, 10, beats=beats) == [None] * 10


def test_nobody_waits_no_alarm() -> None:
    watch = Watch(DEADLINES)
    assert looks(watch, Phase.STEP, 500, pending=False) == [None] * 500
    assert looks(watch, Phase.STEP, 20) == [None] * 20, "the time before somebody waited does not count"


def test_a_front_that_was_frozen_itself_raises_no_alarm() -> None:
    watch = Watch(DEADLINES)
    assert looks(watch, Phase.STEP, 3, elapsed_s=3600.0) == [None] * 3
