"""Who gives a place back is named in the log with what that costs, and a storm of victims is a line now and then."""

import logging

import pytest

from kvasir.scheduler.journal import LOG_INTERVAL_S
from kvasir.testing.clock import ManualClock
from tests.scheduler.driver import Driver, make_request


def victims(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if "gives its place back" in record.getMessage()]


def test_a_victim_is_named_with_its_tokens(kvasir_log: pytest.LogCaptureFixture) -> None:
    d = Driver(num_blocks=8, max_num_seqs=2, clock=ManualClock(1000.0))
    d.add(make_request("older", [1] * 10, max_tokens=12), make_request("younger", [50] * 10, max_tokens=12, arrival=1))
    with kvasir_log.at_level(logging.INFO, "kvasir"):
        d.run()
    (line, *_) = victims(kvasir_log)
    assert line.startswith("request younger gives its place back: ")
    lost = int(line.split(": ")[1].split()[0])
    stats = d.scheduler.make_stats()
    assert 10 <= lost < 22 and stats.num_preempted >= 1
    assert 0 <= stats.num_recomputed_tokens <= lost * stats.num_preempted


def test_one_line_in_ten_seconds_however_many_there_are(kvasir_log: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(1000.0)
    d = Driver(num_blocks=64, max_num_seqs=4, max_num_batched_tokens=64, clock=clock)
    d.add(*(make_request(str(i), [1 + i] * 8, max_tokens=20, arrival=i) for i in range(4)))
    d.step()
    with kvasir_log.at_level(logging.INFO, "kvasir"):
        for _ in range(3):
            d.scheduler._preempt(d.scheduler.running.pop())
        assert len(victims(kvasir_log)) == 1
        clock.advance(LOG_INTERVAL_S)
        d.scheduler._preempt(d.scheduler.running.pop())
    first, second = victims(kvasir_log)
    assert "more with" not in first and "(2 more with 16 tokens since the last line)" in second
    d.run()
