"""Where the time of steps goes: the phases add up, and off they cost next to nothing."""

import time

import pytest

from kvasir.engine.step_times import PHASES, StepTimes
from kvasir.messages import Control, StepPhases
from kvasir.observability import Metrics
from tests.engine.cores import Heard, fake_core, request


def measured(core) -> StepPhases:
    """All that a core reports while it runs dry."""
    sums = StepPhases(0, 0.0, dict.fromkeys(PHASES, 0.0))
    while core.has_work:
        for said in core.step().values():
            if said.stats is not None and (more := said.stats.measured) is not None:
                sums.num_steps += more.num_steps
                sums.worker_s += more.worker_s
                sums.phase_s = {name: sums.phase_s[name] + more.phase_s[name] for name in PHASES}
    return sums


@pytest.mark.parametrize("overlap", [False, True])
def test_phases_add_up_to_the_time_it_took(overlap):
    core = fake_core(overlap=overlap, delay_s=0.002)
    core.control(Control("step_times", {"on": True}))
    core.add_request(request("a", [1, 2, 3], max_tokens=20))
    started = time.perf_counter()
    found = measured(core)
    took = time.perf_counter() - started
    assert found.num_steps == 20
    assert all(seconds >= 0 for seconds in found.phase_s.values())
    assert sum(found.phase_s.values()) == pytest.approx(took, rel=0.15, abs=0.01)
    assert found.phase_s["wait"] > 0.01  # where the worker's time goes, when nothing else is to be done
    assert found.phase_s["schedule"] > 0 and found.phase_s["update"] > 0


def test_off_nothing_is_said_and_it_can_be_switched_while_running():
    core = fake_core()
    core.add_request(request("a", [1, 2, 3], max_tokens=5))
    assert measured(core).num_steps == 0
    assert core.control(Control("step_times", {"on": True}, 1)).error is None
    core.add_request(request("b", [1, 2, 3], max_tokens=5))
    assert measured(core).num_steps == 5
    core.control(Control("step_times", {"on": False}))
    core.add_request(request("c", [1, 2, 3], max_tokens=5))
    assert measured(core).num_steps == 0
    assert Heard().run(core)


@pytest.mark.parametrize("detailed", [False, True])
def test_what_it_costs_a_step(detailed):
    """Under 20 microseconds whatever the machine does beside; it is below one on a quiet one."""
    times = StepTimes(detailed)

    def step() -> float:
        started = time.perf_counter()
        for _ in range(500):
            times.begin(True)
            times.mark("schedule")
            times.detail("execute")
            times.detail("sample")
            times.mark("wait")
            times.count(0.0)
            times.mark("update")
        return (time.perf_counter() - started) / 500

    assert min(step() for _ in range(5)) < 20e-6
    phases = times.take().phase_s
    assert (phases["execute"] > 0) == detailed and phases["schedule"] > 0 and times.take().num_steps == 0


def test_in_metrics_and_in_the_log():
    from kvasir.messages import SchedulerStats

    metrics = Metrics("m")
    assert metrics.line.take_phases() is None
    phases = dict(zip(PHASES, (0.0, 0.1, 0.2, 0.3, 0.4, 0.5), strict=True))
    for _ in range(2):
        metrics.on_scheduler_stats(SchedulerStats(measured=StepPhases(100, 0.7, phases)))
    text = metrics.render().decode()
    assert 'kvasir:step_phase_seconds_total{engine="0",model_name="m",phase="wait"} 0.8' in text
    assert 'kvasir:steps_measured_total{engine="0",model_name="m"} 200.0' in text
    assert 'kvasir:step_worker_seconds_total{engine="0",model_name="m"} 1.4' in text
    line = metrics.line.take_phases()
    assert line is not None and line.startswith("200 steps of 15.000 ms: between 0.000, schedule 1.000")
    assert line.endswith("update 5.000; in the worker 7.000 ms") and metrics.line.take_phases() is None
