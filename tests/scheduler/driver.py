"""Drives a scheduler against the fake worker, in either loop, and keeps what the front would have."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from kvasir.kv_cache import KVCacheManager, KVSpec
from kvasir.messages import (
    EngineCoreOutput,
    EngineCoreRequest,
    FinishReason,
    ModelRunnerOutput,
    SamplingParams,
    SchedulerOutput,
    TokenLogprobs,
)
from kvasir.messages.wire import copy
from kvasir.scheduler import GrowthForecast, Scheduler, SchedulerSettings
from kvasir.testing.clock import ManualClock
from kvasir.testing.fake_executor import FakeExecutor, StepFailure, expected_tokens

VOCAB = 1000


def make_request(request_id: str, prompt: list[int], *, seed: int = 0, arrival: float = 0.0, **kw) -> EngineCoreRequest:
    """Keywords of EngineCoreRequest or of SamplingParams."""
    own = {k: kw.pop(k) for k in list(kw) if k in EngineCoreRequest.__struct_fields__}
    return EngineCoreRequest(request_id, prompt, SamplingParams(**kw), seed, arrival, **own)


@dataclass
class Answer:
    """What the front got for one request."""

    client_index: int
    tokens: list[int] = field(default_factory=list)
    reason: FinishReason | None = None
    stop_token_id: int | None = None
    error: str | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] | None = None
    num_cached: int = 0


class Driver:
    """`depth` plans are in flight when a result is read: 1 is the plain loop, 2 the overlapped one.

    Args:
        fail: asked for each step; True makes it fail in the worker.
        forecast: whether `GrowthForecast` is asked, as it is by default in an engine.
    """

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        depth: int = 1,
        check: bool = True,
        prefix_caching: bool = True,
        fail: Callable[[SchedulerOutput], str | None] = lambda step: None,
        extra_limiters=(),
        forecast: bool = False,
        clock: ManualClock | None = None,
        **settings,
    ):
        settings = {"max_num_seqs": 4, "max_num_batched_tokens": 16, "max_model_len": 64, **settings}
        self.depth, self.check, self.fail = depth, check, fail
        self.clock = clock or ManualClock()
        self.kv = KVCacheManager(KVSpec(num_blocks, block_size), enable_prefix_caching=prefix_caching)
        self.scheduler = Scheduler(
            SchedulerSettings(overlap=depth > 1, **settings),
            self.kv,
            clock=self.clock,
            extra_limiters=[*extra_limiters, *([GrowthForecast(self.kv)] if forecast else [])],
        )
        self.executor = FakeExecutor(
            num_blocks, block_size, settings["max_num_seqs"], settings["max_model_len"], VOCAB, steps_ahead=depth - 1
        )
        self.executor.start()
        self.flight: deque[tuple[SchedulerOutput, SchedulerOutput]] = deque()
        self.answers: dict[str, Answer] = {}
        self.plans: list[SchedulerOutput] = []
        self.num_failed = 0

    def add(self, *requests: EngineCoreRequest) -> None:
        for request in requests:
            self.scheduler.add_request(copy(request))
            self.answers[request.request_id] = Answer(request.client_index, list(request.output_token_ids))

    def step(self) -> SchedulerOutput:
        """Plans a step, starts it, and reads the result of the oldest one if `depth` are in flight."""
        plan = self.scheduler.schedule()
        self.audit()
        if plan.num_rows:
            mode = self.fail(plan)
            if mode:
                self.executor.failures[plan.step_id] = mode
            sent = copy(plan)
            self.executor.execute_model(sent)
            self.plans.append(sent)
            self.flight.append((plan, sent))
        if self.flight and (len(self.flight) >= self.depth or not plan.num_rows):
            self.land()
        return plan

    def land(self) -> None:
        plan, sent = self.flight.popleft()
        assert plan == sent, "a plan changed after it was made"
        try:
            result: ModelRunnerOutput = copy(self.executor.sample_tokens(plan.step_id).result())
        except StepFailure as error:
            self.num_failed += 1
            outputs = self.scheduler.fail_step(plan, str(error))
        else:
            outputs = self.scheduler.update_from_output(plan, result)
        for client, out in outputs.items():
            self.hear(client, out)
        self.audit()

    def hear(self, client: int, out: EngineCoreOutput) -> None:
        at = 0
        assert out.request_ids, "an output that says nothing"
        for row, (name, first, count) in enumerate(zip(out.request_ids, out.first_index, out.num_new, strict=True)):
            answer = self.answers[name]
            assert answer.client_index == client, f"{name} is told to client {client}"
            assert answer.reason is None, f"{name} was finished"
            assert first == len(answer.tokens), f"{name}: token {first} follows {len(answer.tokens)}"
            answer.tokens += out.token_ids[at : at + count]
            answer.logprobs += out.logprobs.get(row, [])
            answer.num_cached += out.num_cached_tokens.get(row, 0)
            if row in out.prompt_logprobs:
                assert answer.prompt_logprobs is None and first == 0
                answer.prompt_logprobs = out.prompt_logprobs[row]
            at += count
        assert at == len(out.token_ids)
        for end in out.finished:
            answer = self.answers[out.request_ids[end.row]]
            answer.reason, answer.stop_token_id, answer.error = end.reason, end.stop_token_id, end.error

    def abort(self, *names: str) -> None:
        self.scheduler.abort_requests(names)
        for name in names:
            if name in self.answers and self.answers[name].reason is None:
                self.answers[name].reason = FinishReason.ABORT
        self.audit()

    def audit(self) -> None:
        if self.check:
            self.scheduler.check_integrity()

    def run(self, max_steps: int = 10_000) -> dict[str, Answer]:
        """Until nothing is left."""
        for _ in range(max_steps):
            if not self.scheduler.has_work():
                self.audit()
                assert self.kv.num_used_blocks == 0
                return self.answers
            self.step()
        raise AssertionError(f"not done after {max_steps} steps: {self.scheduler.running}")


def alone(request: EngineCoreRequest, max_model_len: int) -> tuple[list[int], FinishReason, int | None]:
    """What the request must give by the stop rules, computed without any engine."""
    params, prompt = request.params, request.prompt_token_ids
    count = max_model_len - len(prompt)
    if params.max_tokens is not None:
        count = min(count, params.max_tokens)
    tokens = expected_tokens(prompt, request.seed, count, VOCAB)
    for i, token in enumerate(tokens):
        if token in request.stop_token_ids and i + 1 >= params.min_tokens:
            return tokens[: i + 1], FinishReason.STOP, token
    return tokens, FinishReason.LENGTH, None
