"""What may queue: bounds in requests, tokens and time, and when to come again."""

import pytest

from kvasir.engine.admission import Admission, AdmissionLimits, TooLateError
from kvasir.errors import DeadlineError, QueueFullError
from kvasir.testing.clock import ManualClock

BIG = 1 << 40


def test_requests_are_bounded_and_places_come_back():
    admission = Admission(AdmissionLimits(3, BIG))
    tickets = [admission.enter(2, 10), admission.enter(1, 10)]
    with pytest.raises(QueueFullError, match="3 requests are running or waiting and 1 more would pass the bound of 3"):
        admission.check()
    assert admission.num_refused == 1
    for ticket in tickets:
        ticket.start()
        ticket.leave()
        ticket.leave()
    assert (admission.num_unfinished, admission.num_waiting, admission.num_waiting_tokens) == (0, 0, 0)
    admission.check(3)


def test_tokens_that_wait_are_bounded_but_one_prompt_is_always_taken():
    admission = Admission(AdmissionLimits(BIG, 100))
    first = admission.enter(1, 500)
    with pytest.raises(QueueFullError, match="have 500 tokens and 1 more would pass the bound of 100"):
        admission.check(1, 1)
    with pytest.raises(QueueFullError):
        admission.check()  # before the prompt is known
    first.start()
    second = admission.enter(1, 60)
    admission.check()
    with pytest.raises(QueueFullError, match="60 tokens and 50 more"):
        admission.enter(1, 50)
    second.leave()  # left while waiting
    assert admission.num_waiting_tokens == 0


def test_the_wait_is_measured_while_somebody_waits():
    clock = ManualClock(0.0)
    admission = Admission(AdmissionLimits(BIG, BIG, max_wait_s=5.0), clock)
    for _ in range(50):  # one request an hour says nothing of how fast the queue would move
        clock.advance(3600.0)
        ticket = admission.enter(1, 10)
        clock.advance(0.1)
        ticket.start()
        ticket.leave()
    assert admission.expected_wait_s() == 0.0
    tickets = [admission.enter(1, 10) for _ in range(50)]
    assert admission.expected_wait_s() == pytest.approx(5.0, rel=0.05)
    with pytest.raises(QueueFullError, match="--max-queue-wait") as caught:
        for _ in range(10):
            tickets.append(admission.enter(1, 10))
    assert 2.0 < caught.value.retry_after_s < 3.5
    admission.limits = AdmissionLimits(BIG, BIG)
    admission.check(left_s=60.0)
    with pytest.raises(TooLateError, match=r"this one has 1\.0 s left"):
        admission.check(left_s=1.0)
    with pytest.raises(DeadlineError, match="before it could be queued"):
        admission.check(left_s=-0.1)


def test_a_queue_that_stands_still_looks_ever_longer():
    clock = ManualClock(0.0)
    admission = Admission(AdmissionLimits(BIG, BIG), clock)
    tickets = [admission.enter(1, 100) for _ in range(20)]
    for ticket in tickets[:10]:
        clock.advance(0.5)
        ticket.start()
    before = admission.expected_wait_s()
    clock.advance(20.0)
    assert admission.expected_wait_s() > 4 * before
