"""Traces of requests through the real admission and the real scheduler, with a made-up clock in place of a device.

The worker is the strict fake one; each step takes the time that a plain cost model says. Nothing depends on the
machine, so the figures of a trace are the same everywhere.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kvasir.engine.admission import Admission, AdmissionLimits, Ticket
from kvasir.errors import CapacityError
from kvasir.kv_cache import KVCacheManager, KVSpec
from kvasir.messages import EngineCoreOutput, EngineCoreRequest, EventKind, SamplingParams, SchedulerOutput
from kvasir.scheduler import GrowthForecast, Limiter, Scheduler, SchedulerSettings
from kvasir.testing.clock import ManualClock
from kvasir.testing.fake_executor import FakeExecutor

VOCAB = 1000


@dataclass(frozen=True)
class Arrival:
    """One request of a trace: it would generate `num_output` tokens, and says at most `max_tokens`."""

    at: float
    num_prompt: int
    num_output: int
    max_tokens: int
    tenant: str = ""
    weight: float = 1.0
    priority: int = 0
    timeout_s: float = 0.0


@dataclass(frozen=True)
class Machine:
    """Sizes, and seconds of a step: a constant, per prompt token, per answer that goes on."""

    num_blocks: int = 2048
    block_size: int = 16
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    max_model_len: int = 4096
    step_s: float = 0.010
    prompt_token_s: float = 50e-6
    row_s: float = 50e-6

    def seconds(self, step: SchedulerOutput) -> float:
        prompt = sum(n for n in step.num_scheduled_tokens if n > 1)
        return self.step_s + prompt * self.prompt_token_s + step.num_rows * self.row_s


@dataclass
class Story:
    """What became of one request. Times are seconds of the trace, -1.0 where the event has not happened."""

    arrival: Arrival
    refused: bool = False
    expired: bool = False
    first_token: float = -1.0
    finished: float = -1.0
    num_tokens: int = 0
    num_preemptions: int = 0

    @property
    def ttft_s(self) -> float:
        return self.first_token - self.arrival.at


@dataclass
class Report:
    stories: list[Story]
    seconds: float
    num_computed: int
    num_recomputed: int
    num_preempted: int
    served: dict[float, dict[str, float]] = field(default_factory=dict)  # time -> tenant -> tokens so far

    @property
    def admitted(self) -> list[Story]:
        return [s for s in self.stories if not s.refused]

    @property
    def refused_share(self) -> float:
        return 1.0 - len(self.admitted) / len(self.stories)

    @property
    def wasted_share(self) -> float:
        """Tokens computed again because of preemption, of all computed."""
        return self.num_recomputed / max(self.num_computed, 1)

    @property
    def output_per_s(self) -> float:
        return sum(s.num_tokens for s in self.stories) / self.seconds

    def ttft(self, quantile: float) -> float:
        times = sorted(s.ttft_s for s in self.admitted if s.first_token >= 0.0)
        return times[min(int(quantile * len(times)), len(times) - 1)]


def jain(shares: Iterable[float]) -> float:
    """1.0: all equal; 1 / count: one has everything."""
    values = list(shares)
    return sum(values) ** 2 / (len(values) * sum(v * v for v in values))


class Simulation:
    """Runs a trace.

    Args:
        limits: the front's bounds; None admits everything.
        forecast: whether `GrowthForecast` is asked.
    """

    def __init__(
        self,
        trace: Sequence[Arrival],
        machine: Machine | None = None,
        *,
        policy: str = "fcfs",
        limits: AdmissionLimits | None = None,
        forecast: bool = True,
        depth: int = 2,
    ):
        m = self.machine = machine or Machine()
        self.clock = ManualClock(0.0)
        self.kv = KVCacheManager(KVSpec(m.num_blocks, m.block_size), hash_key=bytes(32))
        settings = SchedulerSettings(
            m.max_num_seqs, m.max_num_batched_tokens, m.max_model_len, policy=policy, overlap=depth > 1
        )
        extra: list[Limiter] = [GrowthForecast(self.kv)] if forecast else []
        self.scheduler = Scheduler(settings, self.kv, extra_limiters=extra, clock=self.clock)
        self.executor = FakeExecutor(
            m.num_blocks, m.block_size, m.max_num_seqs, m.max_model_len, VOCAB, steps_ahead=depth - 1, verify=False
        )
        self.executor.start()
        unbounded = AdmissionLimits(1 << 40, 1 << 40)
        self.admission = Admission(limits or unbounded, self.clock)
        self._pending = deque(sorted(trace, key=lambda a: a.at))
        self._depth = depth
        self._flight: deque[SchedulerOutput] = deque()
        self._stories: list[Story] = []
        self._live: dict[str, tuple[Story, Ticket]] = {}
        self._report = Report(self._stories, 0.0, 0, 0, 0)
        self._served: dict[str, float] = {}

    def run(self, until: Callable[["Simulation"], bool] = lambda s: False, snapshot_s: float = 0.0) -> Report:
        """Until the trace is over and everything has ended, or `until` says so."""
        next_snapshot = snapshot_s
        while not until(self) and (self._pending or self.scheduler.has_work()):
            if not self.scheduler.has_work():
                self.clock.now = max(self.clock.now, self._pending[0].at)
            self._arrive()
            self._expire()
            self._step()
            if snapshot_s and self.clock.now >= next_snapshot:
                self._report.served[self.clock.now] = dict(self._served)
                next_snapshot += snapshot_s
        self._report.seconds = self.clock.now
        self._report.served[self.clock.now] = dict(self._served)
        self._take_stats()
        return self._report

    def _arrive(self) -> None:
        while self._pending and self._pending[0].at <= self.clock.now:
            arrival = self._pending.popleft()
            story = Story(arrival)
            self._stories.append(story)
            try:
                ticket = self.admission.enter(1, arrival.num_prompt, arrival.timeout_s or None)
            except CapacityError:
                story.refused = True
                continue
            number = len(self._stories)
            rng = random.Random(number)
            request = EngineCoreRequest(
                str(number),
                [rng.randrange(VOCAB) for _ in range(arrival.num_prompt)],
                SamplingParams(max_tokens=arrival.max_tokens),
                number,
                arrival.at,
                stop_token_ids=[VOCAB],  # never sampled; it says that the end cannot be known
                tenant=arrival.tenant,
                weight=arrival.weight,
                priority=arrival.priority,
                deadline=arrival.at + arrival.timeout_s if arrival.timeout_s else 0.0,
            )
            self.scheduler.add_request(request)
            self._live[request.request_id] = (story, ticket)

    def _expire(self) -> None:
        late = [
            name
            for name, (story, _) in self._live.items()
            if story.arrival.timeout_s and self.clock.now > story.arrival.at + story.arrival.timeout_s
        ]
        for name in late:
            self._live[name][0].expired = True
            self._end(name)

    def _step(self) -> None:
        plan = self.scheduler.schedule()
        if plan.num_rows:
            self.executor.execute_model(plan)
            self._report.num_computed += plan.total_tokens
            self._flight.append(plan)
            self.clock.advance(self.machine.seconds(plan))
        if self._flight and (len(self._flight) >= self._depth or not plan.num_rows):
            step = self._flight.popleft()
            result = self.executor.sample_tokens(step.step_id).result()
            for output in self.scheduler.update_from_output(step, result).values():
                self._hear(output)

    def _hear(self, output: EngineCoreOutput) -> None:
        for event in output.events:
            if event.kind is EventKind.PREEMPTED and event.request_id in self._live:
                self._live[event.request_id][0].num_preemptions += 1
        ended = {output.request_ids[f.row] for f in output.finished}
        for name, count in zip(output.request_ids, output.num_new, strict=True):
            if name not in self._live:
                continue
            story, ticket = self._live[name]
            tenant = story.arrival.tenant
            if story.first_token < 0.0 and count:
                story.first_token = self.clock.now
                ticket.start()
                self._served[tenant] = self._served.get(tenant, 0.0) + story.arrival.num_prompt
            story.num_tokens += count
            self._served[tenant] = self._served.get(tenant, 0.0) + count
            if name in ended or story.num_tokens >= story.arrival.num_output:
                self._end(name)

    def _end(self, name: str) -> None:
        story, ticket = self._live.pop(name)
        story.finished = self.clock.now
        ticket.leave()
        self.scheduler.abort_requests([name])

    def _take_stats(self) -> None:
        stats = self.scheduler.make_stats()
        self._report.num_preempted += stats.num_preempted
        self._report.num_recomputed += stats.num_recomputed_tokens
