"""Where the time of steps goes: the phases add up, kinds of steps are told apart, and off it costs next to nothing."""

import time

import pytest

from kvasir.engine.step_times import PHASES, StepTimes
from kvasir.messages import Control, ModelRunnerOutput, SchedulerOutput, StepPhases
from kvasir.observability import Metrics
from kvasir.observability.step_report import add_phases, no_phases, phase_figures
from tests.engine.cores import Heard, fake_core, request

DECODE = SchedulerOutput(0, [0, 1], [1, 1], [5, 7], [True, True], [0, 0])
PROMPT = SchedulerOutput(0, [0, 1], [1, 9], [5, 0], [True, True], [0, 0])


def measured(core) -> StepPhases:
    """All that a core reports while it runs dry."""
    sums = no_phases()
    while core.has_work:
        for said in core.step().values():
            if said.stats is not None and said.stats.measured is not None:
                add_phases(sums, said.stats.measured)
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
    figures = phase_figures(found)
    # With overlap, turns that only launch or only take a result count nowhere, and one of the others had the prompt.
    assert figures["decode"]["num_steps"] == (18 if overlap else 19) and figures["prompt"]["num_steps"] == 1
    decode = figures["decode"]
    assert decode["wait_ms"]["p50"] <= decode["step_ms"]["p50"] and decode["worker_ms"]["p50"] == pytest.approx(
        2, rel=0.5
    )
    assert decode["host_ms"]["p50"] < 1.5 < decode["step_ms"]["p50"]


def turn(times: StepTimes, launched: SchedulerOutput | None, landed: SchedulerOutput | None, read_s: float = 0) -> None:
    times.begin(True)
    times.mark("schedule")
    if launched is not None:
        times.launch(launched)
    times.detail("execute")
    if landed is not None:
        time.sleep(0.001)
        times.land(landed, ModelRunnerOutput(0, step_s=0.5, read_s=read_s))
        times.mark("update")
    times.end()


def test_steps_with_prompts_are_told_apart_and_half_turns_count_nowhere():
    times = StepTimes(True)
    turn(times, PROMPT, None)
    turn(times, DECODE, PROMPT)
    for _ in range(5):
        turn(times, DECODE, DECODE)
    turn(times, None, DECODE)
    found = times.take()
    figures = phase_figures(found)
    assert figures["decode"]["num_steps"] == 5 and figures["prompt"]["num_steps"] == 1 and found.num_steps == 7
    assert set(figures["decode"]) == {"num_steps", *(f"{name}_ms" for name in ("step", "host", "worker", *PHASES))}
    assert figures["decode"]["worker_ms"] == pytest.approx({"p50": 500, "p90": 500}, rel=0.03)
    assert phase_figures(times.take()) == {}


def test_making_the_result_is_the_hosts_time_and_what_is_left_is_waiting():
    times = StepTimes(True)
    turn(times, DECODE, DECODE, read_s=0.0004)
    first = times.take().phase_s
    assert first["read"] == pytest.approx(0.0004) and first["wait"] >= 0.0005
    turn(times, DECODE, DECODE, read_s=30.0)  # made on another thread, long ago
    second = times.take()
    assert second.phase_s["wait"] == 0 and 0.001 <= second.phase_s["read"] < 1
    host_ms = phase_figures(second)["decode"]["host_ms"]["p50"]
    assert host_ms == pytest.approx(sum(second.phase_s.values()) * 1e3, rel=0.05)


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
    """Under 60 microseconds whatever the machine does beside; on a quiet one it is one, and five when detailed."""
    times, result = StepTimes(detailed), ModelRunnerOutput(0)

    def step() -> float:
        started = time.perf_counter()
        for _ in range(500):
            times.begin(True)
            times.mark("schedule")
            times.detail("execute")
            times.detail("sample")
            times.launch(DECODE)
            times.land(DECODE, result)
            times.mark("update")
            times.end()
        return (time.perf_counter() - started) / 500

    assert min(step() for _ in range(5)) < 60e-6
    phases = times.take().phase_s
    assert (phases["execute"] > 0) == detailed and phases["schedule"] > 0 and times.take().num_steps == 0


def test_in_metrics_and_in_the_log():
    from kvasir.messages import SchedulerStats

    metrics = Metrics("m")
    assert metrics.line.take_phases() == []
    phases = dict(zip(PHASES, (0.0, 0.1, 0.2, 0.3, 0.4, 0.0, 0.5), strict=True))
    times = StepTimes(True)
    for _ in range(3):
        turn(times, DECODE, DECODE)
    spreads = times.take().decode
    for _ in range(2):
        metrics.on_scheduler_stats(SchedulerStats(measured=StepPhases(100, 0.7, phases, spreads)))
    text = metrics.render().decode()
    assert 'kvasir:step_phase_seconds_total{engine="0",model_name="m",phase="wait"} 0.8' in text
    assert 'kvasir:steps_measured_total{engine="0",model_name="m"} 200.0' in text
    assert 'kvasir:step_worker_seconds_total{engine="0",model_name="m"} 1.4' in text
    (line,) = metrics.line.take_phases()
    assert line.startswith("6 steps of decode rows, p50 (p90) ms: step 1.") and ", host 0." in line
    assert all(f" {phase} " in line for phase in PHASES) and "; in the worker " in line
    assert metrics.line.take_phases() == []
