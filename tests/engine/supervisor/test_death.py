"""What an exit code says, and the files about it."""

import json
import os
import signal
from pathlib import Path

import pytest

from kvasir.engine.supervisor.budget import WINDOW_S, RestartBudget
from kvasir.engine.supervisor.death import EXIT_DEVICE_FAULT, Cause, Death, cause_of
from kvasir.engine.supervisor.incidents import MAX_FILES, Incident, Incidents
from kvasir.platforms import is_device_fault
from kvasir.utils.heartbeat import Phase


@pytest.mark.parametrize(
    ("exit_code", "cause", "from_within"),
    [
        (-signal.SIGKILL, Cause.KILLED, False),
        (-signal.SIGTERM, Cause.KILLED, False),
        (-signal.SIGINT, Cause.KILLED, False),
        (-signal.SIGSEGV, Cause.CRASHED, True),
        (-signal.SIGABRT, Cause.CRASHED, True),
        (-signal.SIGBUS, Cause.CRASHED, True),
        (1, Cause.CRASHED, True),
        (0, Cause.CRASHED, True),
        (EXIT_DEVICE_FAULT, Cause.DEVICE_FAULT, True),
    ],
)
def test_causes(exit_code: int, cause: Cause, from_within: bool) -> None:
    death = Death(cause_of(exit_code), exit_code, Phase.STEP, 12)
    assert (death.cause, death.from_within) == (cause, from_within)
    assert "step 12" in str(death)


def test_a_stuck_core_is_under_suspicion_and_a_stopped_one_is_not() -> None:
    assert Death(Cause.STUCK, -9, Phase.STEP, 3, {}, 61.0).from_within
    stopped = Death(Cause.STOPPED, -9, Phase.STEP, 3, {}, 61.0)
    assert not stopped.from_within
    assert "61.0 s" in str(stopped) and "stopped from outside" in str(stopped)


class AcceleratorError(RuntimeError):
    pass


class OutOfMemoryError(RuntimeError):
    pass


def test_device_faults_are_told_from_other_errors() -> None:
    assert is_device_fault(AcceleratorError("anything"))
    assert is_device_fault(RuntimeError("CUDA error: an illegal memory access was encountered"))
    try:
        raise RuntimeError("the step failed") from AcceleratorError("x")
    except RuntimeError as error:
        assert is_device_fault(error)
    assert not is_device_fault(OutOfMemoryError("CUDA out of memory"))
    assert not is_device_fault(ValueError("a processor's bug"))


def test_the_budget_is_a_window() -> None:
    now = [0.0]
    budget = RestartBudget(2, clock=lambda: now[0])
    assert [budget.take() for _ in range(3)] == [True, True, False]
    budget.refund()
    assert budget.take() and not budget.take()
    now[0] = WINDOW_S + 1
    assert budget.take()


def incident(**more: object) -> Incident:
    death = Death(Cause.CRASHED, -signal.SIGSEGV, Phase.STEP, 41)
    what = dict(in_flight={"chat-1": 17}, num_live=3, num_suspects=1, refused=(), facts={"model": "m"})
    return Incident(death, 4242, 0, 12.5, **{**what, **more})  # type: ignore[arg-type]


def test_an_incident_says_what_happened_and_to_whom(tmp_path: Path) -> None:
    path = Incidents(tmp_path / "new").write(incident())
    assert path is not None
    told = json.loads(path.read_text())
    assert told["signal"] == "SIGSEGV" and told["phase"] == "step" and told["step_id"] == 41
    assert told["tokens_by_request_in_flight"] == {"chat-1": 17} and told["model"] == "m"
    assert os.listdir(tmp_path / "new") == [path.name], "nothing unfinished is left"


def test_incidents_are_bounded_in_size_and_number(tmp_path: Path) -> None:
    many = {f"{i:04d}" + "x" * 500: i for i in range(2000)}
    incidents = Incidents(tmp_path)
    paths = [incidents.write(incident(in_flight=many)) for _ in range(MAX_FILES + 5)]
    left = sorted(tmp_path.iterdir())
    assert left == paths[5:]
    assert all(path.stat().st_size < 16_000 for path in left)


def test_a_full_disk_costs_a_log_line(tmp_path: Path) -> None:
    (tmp_path / f".incident-{os.getpid()}.tmp").symlink_to("/dev/full")
    assert Incidents(tmp_path).write(incident()) is None
    assert Incidents(tmp_path / "file" / "x").write(incident()) is not None
    (tmp_path / "plain").write_text("")
    assert Incidents(tmp_path / "plain").write(incident()) is None
