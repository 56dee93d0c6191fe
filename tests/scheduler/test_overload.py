"""Three times more than the machine can do: what is admitted is answered in time, and little work is thrown away."""

import pytest

from kvasir.engine.admission import AdmissionLimits
from kvasir.testing.simulation import Simulation
from tests.scheduler.traces import MACHINE, chat

NO_BOUND = 1 << 40


def overload(limits: AdmissionLimits | None):
    return Simulation(chat(24, 60), MACHINE, limits=limits).run()


def test_without_bounds_the_wait_grows_with_the_queue():
    report = overload(None)
    assert report.refused_share == 0.0 and report.ttft(0.99) > 100.0


@pytest.mark.parametrize(
    ("limits", "seconds"),
    [
        (AdmissionLimits(128, NO_BOUND), 25.0),
        (AdmissionLimits(NO_BOUND, 20_000), 12.0),
        (AdmissionLimits(NO_BOUND, NO_BOUND, max_wait_s=5.0), 12.0),
    ],
    ids=["requests", "tokens", "wait"],
)
def test_p99_of_the_admitted_is_bounded(limits, seconds):
    report = overload(limits)
    assert report.ttft(0.99) < seconds
    assert 0.55 < report.refused_share < 0.75, "about two thirds are too many"
    assert report.wasted_share < 0.05
    assert report.output_per_s > 1500, "refusing costs no throughput"
    assert all(s.finished >= 0.0 for s in report.admitted), "who was admitted is answered"


def test_deadlines_that_cannot_be_met_are_refused_and_most_others_are_met():
    report = Simulation(chat(24, 60, timeout_s=20.0), MACHINE, policy="deadline").run()
    kept = [s for s in report.admitted if not s.expired]
    assert 0.4 < report.refused_share < 0.8
    assert len(kept) > 0.5 * len(report.admitted)
    assert report.ttft(0.99) <= 20.1
    unbounded = Simulation(chat(24, 60), MACHINE).run()
    in_time = [s for s in unbounded.stories if s.finished - s.arrival.at <= 20.0]
    assert len(kept) > 1.5 * len(in_time), "refusing early is what lets the others be in time"


@pytest.mark.parametrize(
    ("trace", "kept"),
    [
        (chat(10, 60), 0.98),
        (chat(6, 60, prompt=(20, 200), mean_output=500, max_tokens=2048), 0.90),
        (chat(20, 60, prompt=(200, 1500), mean_output=40, max_tokens=512), 0.98),
    ],
    ids=["chat", "long answers", "short answers"],
)
def test_the_forecast_spares_work_and_keeps_the_throughput(trace, kept):
    """The second trace is made to thrash: without a forecast a third of all tokens is computed twice."""
    without = Simulation(trace, MACHINE, forecast=False).run()
    with_it = Simulation(trace, MACHINE).run()
    assert with_it.wasted_share < 0.05
    assert with_it.num_preempted <= without.num_preempted / 4 or without.num_preempted < 10
    assert max(s.num_preemptions for s in with_it.stories) <= 4
    assert with_it.output_per_s > kept * without.output_per_s


def test_with_room_for_all_the_forecast_refuses_nobody():
    trace = chat(2, 30)
    plain = Simulation(trace, MACHINE, forecast=False).run()
    assert plain.num_preempted == 0
    assert Simulation(trace, MACHINE).run().seconds == plain.seconds
