"""One answer from several cores."""

import msgspec

from kvasir.engine.combine import combine
from kvasir.messages import SchedulerStats, StepPhases


def test_stats_are_summed_with_the_times_of_steps_where_they_were_measured() -> None:
    measured = [
        StepPhases(3, 0.5, {"wait": 0.25}, {"wait": {7: 2}}),
        None,
        StepPhases(1, 0.25, {"wait": 0.5, "update": 0.125}, {"wait": {7: 1, 9: 1}}),
    ]
    stats = [SchedulerStats(num_running=2, step_s=0.5, measured=phases) for phases in measured]
    total = msgspec.convert(combine("stats", [msgspec.to_builtins(one) for one in stats]), SchedulerStats)
    assert (total.num_running, total.step_s) == (6, 1.5)
    assert total.measured == StepPhases(4, 0.75, {"wait": 0.75, "update": 0.125}, {"wait": {7: 3, 9: 1}})
    nothing = combine("stats", [msgspec.to_builtins(SchedulerStats(num_waiting=1))] * 2)
    assert msgspec.convert(nothing, SchedulerStats) == SchedulerStats(num_waiting=2)


def test_what_workers_say_becomes_one_text() -> None:
    assert combine("worker", ["a.json", "b.json"]) == "a.json; b.json"
    assert combine("worker", [None, None]) is None
    assert combine("worker", ["a.json"]) == "a.json"
