"""AsyncLLM: the engine behind the server. Its cores run in processes of their own; a task for each reads its words."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

from kvasir.config import EngineArgs, KvasirConfig
from kvasir.engine.admission import Admission, AdmissionLimits, Ticket
from kvasir.engine.collector import RequestOutputCollector
from kvasir.engine.combine import combine
from kvasir.engine.core_hold import CoreHold
from kvasir.engine.fanout import fan_out
from kvasir.engine.input import InputProcessor, prompt_text
from kvasir.engine.output import OutputProcessor, ProcessedOutputs
from kvasir.engine.routing import Router
from kvasir.engine.slow_checks import SlowChecks
from kvasir.engine.supervisor.supervisor import Recovery
from kvasir.engine.terms import NO_TERMS, RequestTerms
from kvasir.errors import DeadlineError, EngineDeadError, RequestFailedError
from kvasir.logger import get_logger
from kvasir.messages import (
    Control,
    EngineCoreOutput,
    EngineCoreRequest,
    Prompt,
    Ready,
    RequestOutput,
    SamplingParams,
    SchedulerStats,
)
from kvasir.tokenizer import Tokenizer

logger = get_logger(__name__)

StatsListener = Callable[[SchedulerStats, int], None]
OutputListener = Callable[[EngineCoreOutput], None]
RecoveryListener = Callable[[Recovery], None]


class AsyncLLM:
    """Streams answers; many callers share its cores.

    Use `AsyncLLM.from_engine_args(AsyncEngineArgs(model=...))`; the constructor takes the parts.

    Args:
        cores: each answers requests on its own; a request goes to the one that `Router` chooses, and stays there.
        input_processor: None for an engine that is given requests only, by `submit`.
        admission: what may wait; the configuration's bounds for each core if left out.

    Attributes:
        is_alive: False once the last core is gone; `dead_error` then says why.
    """

    def __init__(
        self,
        config: KvasirConfig,
        cores: Sequence[CoreHold],
        ready: Ready,
        input_processor: InputProcessor | None,
        tokenizer: Tokenizer | None,
        default_sampling_params: dict[str, Any] | None = None,
        admission: AdmissionLimits | None = None,
    ):
        self.config = config
        self.cores = tuple(cores)
        self.ready = ready
        self.tokenizer = tokenizer
        self.default_sampling_params = default_sampling_params or {}
        self.max_model_len = ready.max_model_len
        self.is_alive = True
        self.dead_error: str | None = None
        self._input = input_processor
        self._slow_checks = SlowChecks()
        self.admission = Admission(admission or admission_limits(config, len(cores)))
        self._output = OutputProcessor(tokenizer, num_cores=len(cores))
        self._router = Router(len(cores))
        self._lost: set[int] = set()  # cores that will not come back
        self._readers: list[asyncio.Task[None]] = []
        self._stats_listeners: list[StatsListener] = []
        self._output_listeners: list[OutputListener] = []
        self._recovery_listeners: list[RecoveryListener] = []
        self._closing = False
        self._connecting = asyncio.Lock()

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> Self:
        """Resolves the options, starts the core process and waits until it is ready."""
        from importlib import import_module  # the composition root ranks above this package

        return import_module("kvasir.assembly.front").make_async_llm(args)

    # -- requests -------------------------------------------------------------------------------------------

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        terms: RequestTerms = NO_TERMS,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Yields outputs as `sampling_params.output_kind` says, the last with `finished=True`.

        Closing the generator aborts the request. A caller that reads slowly gets merged outputs; the
        engine never waits for it.

        Raises:
            UserError: the request is wrong (before anything is queued).
            QueueFullError: too many requests are waiting.
            DeadlineError: the deadline in `terms` has passed; the request has ended.
            RequestFailedError: this request failed inside the engine; the others go on.
            EngineDeadError: the core is gone.
        """
        request_id = request_id or uuid.uuid4().hex
        collector = await self.add_request(
            request_id, prompt, sampling_params, priority=priority, cache_salt=cache_salt, terms=terms
        )
        finished = False
        try:
            while not finished:
                output = await collector.get()
                if output.error is not None:
                    raise RequestFailedError(output.error) if self.is_alive else EngineDeadError(output.error)
                finished = output.finished
                yield output
        finally:
            if not finished:
                self.abort_now(request_id)

    async def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        terms: RequestTerms = NO_TERMS,
        on_output: Callable[[], None] | None = None,
    ) -> RequestOutputCollector:
        """Queues a request whose answer is read from the collector; who loses interest calls `abort_now`.

        `on_output` is called on the event loop, at most once for all that came at a time, when there is something
        to read; it must not block. An output's `error` is the caller's to see. Raises what `generate` raises first.
        """
        assert self._input is not None
        processor = self._input
        await self._ensure_reading()
        self.check_room(params.n, terms.deadline)
        if processor.is_slow(params):
            await self._slow_checks.run(lambda: processor.check(params))
        request = processor.process(request_id, prompt, params, priority=priority, cache_salt=cache_salt, terms=terms)
        left_s = _left_s(terms.deadline)
        ticket = self.admission.enter(params.n, len(request.prompt_token_ids), left_s)
        try:
            collector = self.submit(request, prompt_text(prompt), on_output)
        except BaseException:
            ticket.leave()
            raise
        collector.stay = _Stay(ticket, left_s, lambda: self._expire(collector, left_s))
        return collector

    def submit(
        self, request: EngineCoreRequest, prompt: str | None = None, on_output: Callable[[], None] | None = None
    ) -> RequestOutputCollector:
        """Queues a request that was checked and let in. `check_health` must have been awaited before."""
        core = self._choose(request)
        children = fan_out(request)
        collector = self._output.add_request(request, children, prompt, on_output, core)
        for child in children:
            self.cores[core].send(child)
        return collector

    def _expire(self, collector: RequestOutputCollector, left_s: float | None) -> None:
        collector.failure = DeadlineError(
            f"the request was not complete when its time was up ({left_s:.1f} s); ask for less, or give it more time."
        )
        self.abort_now(collector.request_id)

    def _choose(self, request: EngineCoreRequest) -> int:
        alive = [i for i in range(len(self.cores)) if i not in self._lost]
        up = [i for i in alive if self.cores[i].is_up]
        return self._router.choose(request.prompt_token_ids, request.cache_salt, self._output.loads, up or alive)

    async def abort(self, request_id: str) -> None:
        """Ends a request (with all its n answers); its generator yields a last output with reason abort."""
        self.abort_now(request_id)

    def abort_now(self, request_id: str) -> None:
        """The same, for callers that cannot wait; an id that is not known any more is ignored."""
        self._deliver([self._output.abort([request_id])])

    def check_room(self, num_answers: int = 1, deadline: float = 0.0) -> None:
        """Refuses what `generate` would refuse, before anything is spent on a prompt.

        Raises:
            CapacityError: too much waits already, or too long for the deadline.
        """
        self.admission.check(num_answers, 0, _left_s(deadline))

    @property
    def num_unfinished(self) -> int:
        return self._output.num_unfinished

    # -- the cores ------------------------------------------------------------------------------------------

    async def call(self, name: str, /, **args: Any) -> Any:
        """A control call to each core (stats, reset_prefix_cache, ...); several values become one (`combine`)."""
        await self.check_health()
        usable = [core for core in self.cores if core.is_up]
        return combine(name, await asyncio.gather(*(core.call(name, **args) for core in usable)))

    async def reset_prefix_cache(self) -> bool:
        for i in range(len(self.cores)):
            self._router.forget(i)
        return bool(await self.call("reset_prefix_cache"))

    async def start_profile(self, num_steps: int | None = None) -> None:
        """Traces the next steps of the worker, 100 if nothing is said; needs the option `profile`."""
        await self.call("worker", name="start_profile", args={"num_steps": num_steps})

    async def stop_profile(self) -> str:
        """Ends the trace; returns the file it was written to."""
        return str(await self.call("worker", name="stop_profile"))

    async def check_health(self) -> None:
        """Raises EngineDeadError when no core is there, because they are gone or being started again."""
        await self._check_cores(fully=False)

    async def check_ready(self) -> None:
        """Raises EngineDeadError when a new request would have to wait for more than its turn."""
        await self._check_cores(fully=True)

    async def _check_cores(self, *, fully: bool) -> None:
        await self._ensure_reading()  # a death is noticed from the first question on, not from the first request
        problem: EngineDeadError | None = None
        for core in self.cores:
            try:
                await core.check(fully=fully)
                return
            except EngineDeadError as error:
                problem = error
        if problem is not None:
            raise problem

    def _check_alive(self) -> None:
        if not self.is_alive:
            raise EngineDeadError(self.dead_error or "The engine core is gone.")

    def add_stats_listener(self, listener: StatsListener) -> None:
        """`listener` is called with the scheduler's figures, at most once per step."""
        self._stats_listeners.append(listener)

    def add_output_listener(self, listener: OutputListener) -> None:
        """`listener` sees each message of the core before it is processed (metrics)."""
        self._output_listeners.append(listener)

    def add_recovery_listener(self, listener: RecoveryListener) -> None:
        """`listener` is told of each core that replaced another."""
        self._recovery_listeners.append(listener)

    async def _ensure_reading(self) -> None:
        self._check_alive()
        async with self._connecting:
            if not self._readers:
                self._readers = [
                    asyncio.create_task(self._keep(i, core), name=f"kvasir-core-{i}")
                    for i, core in enumerate(self.cores)
                ]
                for core in self.cores:
                    await core.connected.wait()

    async def _keep(self, index: int, core: CoreHold) -> None:
        why = await core.run(self)
        if self._closing:
            return
        self._lost.add(index)
        if len(self._lost) == len(self.cores):
            self._die(why)
        else:
            self._move_away(index, why)

    def _move_away(self, index: int, why: str) -> None:
        """A core is gone for good and others are there: its requests go on with them."""
        live = list(self._output.live(index))
        logger.error("core %d: %s Its %d requests go on with the others.", index, why, len(live))
        self._router.forget(index)
        for request_id in live:
            request = self._output.resumed(request_id)
            core = self._choose(request)
            self._output.move(request_id, core)
            self.cores[core].send(request)

    # What the cores ask of their owner.

    def take(self, core: int, steps: Sequence[EngineCoreOutput]) -> None:
        """Callers hear of it once, however many steps it was."""
        for said in steps:
            for listener in self._output_listeners:
                listener(said)
            if said.stats is not None:
                for stats_listener in self._stats_listeners:
                    stats_listener(said.stats, core)
        self._deliver([self._output.process(said) for said in steps])

    def live(self, core: int) -> dict[str, int]:
        return self._output.live(core)

    def resumed(self, request_id: str) -> EngineCoreRequest:
        return self._output.resumed(request_id)

    def fail(self, request_ids: Sequence[str], why: str) -> None:
        self._deliver([self._output.fail(request_ids, why)])

    def recovered(self, core: int, recovery: Recovery) -> None:
        self._router.forget(core)
        for listener in self._recovery_listeners:
            listener(recovery)

    def _deliver(self, processed: Sequence[ProcessedOutputs]) -> None:
        """Ends in the cores what ended here, and tells the callers; one that fails on it harms no other."""
        to_abort = [request_id for done in processed for request_id in done.to_abort]
        if to_abort:
            for core in self.cores:  # to those that never had a request it means nothing
                core.send(Control("abort", {"request_ids": to_abort}))
        for done in processed:
            for collector in done.moved:
                try:
                    collector.tell()
                except Exception:
                    logger.exception("the reader of request %s failed", collector.request_id)

    def _die(self, why: str) -> None:
        self.is_alive = False
        self.dead_error = why
        logger.error("%s %d requests are lost.", why, self._output.num_unfinished)
        self._deliver([self._output.fail_all(why)])

    def shutdown(self, timeout_s: float = 10.0) -> None:
        """Ends the cores' processes; those that are not gone by then are killed. Idempotent."""
        if self._close():
            with ThreadPoolExecutor() as pool:  # they end side by side
                list(pool.map(lambda core: core.close(timeout_s), self.cores))

    async def aclose(self, timeout_s: float = 10.0) -> None:
        """The same where other engines share the event loop: it goes on while the cores end."""
        if self._close():
            await asyncio.gather(*(asyncio.to_thread(core.close, timeout_s) for core in self.cores))

    def _close(self) -> bool:
        """Takes no more; False when that was done before."""
        if self._closing:
            return False
        self._closing = True
        self.is_alive = False
        self.dead_error = "The engine was shut down."
        for reader in self._readers:
            reader.cancel()
        return True


class _Stay:
    """A request's place in the queue and its deadline: what the collector tells of its first token and its end."""

    __slots__ = ("_ticket", "_timer")

    def __init__(self, ticket: Ticket, left_s: float | None, expire: Callable[[], None]):
        self._ticket = ticket
        loop = asyncio.get_running_loop()
        self._timer = None if left_s is None else loop.call_later(max(left_s, 0.0), expire)

    def start(self) -> None:
        self._ticket.start()

    def leave(self) -> None:
        self._ticket.leave()
        if self._timer is not None:
            self._timer.cancel()


def _left_s(deadline: float) -> float | None:
    return deadline - time.time() if deadline else None


def admission_limits(config: KvasirConfig, num_cores: int, num_fronts: int = 1) -> AdmissionLimits:
    """Of one of several fronts, each of which may fill its share of all cores' queues."""
    scheduler = config.scheduler
    return AdmissionLimits(
        -(-(scheduler.max_num_seqs + scheduler.max_queued_requests) * num_cores // num_fronts),
        -(-scheduler.max_queued_tokens * num_cores // num_fronts),
        scheduler.max_queue_wait,
    )
