"""AsyncLLM: the engine behind the server. The core runs in its own process; one task reads what it says."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Self

from kvasir.config import EngineArgs, KvasirConfig
from kvasir.engine.admission import Admission, AdmissionLimits
from kvasir.engine.client import ProcessClient
from kvasir.engine.fanout import fan_out
from kvasir.engine.input import InputProcessor, prompt_text
from kvasir.engine.output import OutputProcessor, RequestOutputCollector
from kvasir.engine.slow_checks import SlowChecks
from kvasir.engine.supervisor.death import Death
from kvasir.engine.supervisor.quarantine import Quarantine
from kvasir.engine.supervisor.supervisor import Recovery, Supervisor
from kvasir.engine.terms import NO_TERMS, RequestTerms
from kvasir.errors import DeadlineError, EngineDeadError, EngineRestartingError, RequestFailedError
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
from kvasir.utils.heartbeat import digest

logger = get_logger(__name__)

StatsListener = Callable[[SchedulerStats], None]
OutputListener = Callable[[EngineCoreOutput], None]
RecoveryListener = Callable[[Recovery], None]


class AsyncLLM:
    """Streams answers; many callers share one engine core.

    Use `AsyncLLM.from_engine_args(AsyncEngineArgs(model=...))`; the constructor takes the parts.

    Attributes:
        is_alive: False once the core is gone; `dead_error` then says why.
        admission: what runs and waits, and the bounds on it.
    """

    def __init__(
        self,
        config: KvasirConfig,
        supervisor: Supervisor,
        ready: Ready,
        input_processor: InputProcessor,
        tokenizer: Tokenizer | None,
        default_sampling_params: dict[str, Any] | None = None,
    ):
        self.config = config
        self.ready = ready
        self.tokenizer = tokenizer
        self.default_sampling_params = default_sampling_params or {}
        self.max_model_len = ready.max_model_len
        self.is_alive = True
        self.dead_error: str | None = None
        self._input = input_processor
        self._slow_checks = SlowChecks()
        self._output = OutputProcessor(tokenizer)
        self.admission = Admission(_limits(config))
        self._supervisor = supervisor
        self._quarantine = Quarantine()
        self._is_up = True  # False while a new core starts
        self._reader: asyncio.Task[None] | None = None
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
        await self._ensure_reading()
        self.check_room(sampling_params.n, terms.deadline)
        if self._input.is_slow(sampling_params):
            await self._slow_checks.run(lambda: self._input.check(sampling_params))
        request = self._input.process(
            request_id, prompt, sampling_params, priority=priority, cache_salt=cache_salt, terms=terms
        )
        text = prompt_text(prompt)
        queue = RequestOutputCollector(sampling_params.output_kind)
        children = fan_out(request)
        left_s = _left_s(terms.deadline)
        ticket = self.admission.enter(len(children), len(request.prompt_token_ids), left_s)
        sent: list[str] = []
        expiry = _Expiry(left_s, lambda: self._abort(sent))
        finished = False
        try:
            for child in children:
                self._output.add_request(child.request, text, child.params, child.parent, child.index, queue)
                sent.append(child.request.request_id)
                self._submit(child.request)
            while not finished:
                output = await queue.get()
                if expiry.passed:
                    raise DeadlineError(
                        f"the request was not complete when its time was up ({left_s:.1f} s); ask for less, or give "
                        "it more time."
                    )
                ticket.start()
                if output.error is not None:
                    raise RequestFailedError(output.error) if self.is_alive else EngineDeadError(output.error)
                finished = output.finished
                yield output
        finally:
            expiry.cancel()
            ticket.leave()
            if not finished:
                self._abort(sent)

    async def abort(self, request_id: str) -> None:
        """Ends a request (with all its n answers); its generator yields a last output with reason abort."""
        self._abort([request_id])

    def _abort(self, request_ids: list[str]) -> None:
        self._end_in_core(self._output.abort(request_ids).to_abort)

    def _submit(self, request: EngineCoreRequest) -> None:
        """To the core, if there is one and it may have the request now; it is sent later otherwise."""
        if self._is_up and self.is_alive and self._quarantine.offer(request.request_id):
            self.client.send(request)

    def _end_in_core(self, request_ids: list[str]) -> None:
        if request_ids and self._is_up and self.is_alive:
            self.client.send(Control("abort", {"request_ids": request_ids}))
            self._release()

    def check_room(self, num_answers: int = 1, deadline: float = 0.0) -> None:
        """Refuses what `generate` would refuse, before anything is spent on a prompt.

        Raises:
            CapacityError: too much waits already, or too long for the deadline.
        """
        self.admission.check(num_answers, 0, _left_s(deadline))

    @property
    def num_unfinished(self) -> int:
        return self._output.num_unfinished

    # -- the core -------------------------------------------------------------------------------------------

    async def call(self, name: str, **args: Any) -> Any:
        """A control call to the core (stats, reset_prefix_cache, ...)."""
        await self.check_health()
        return await self.client.call(name, **args)

    async def reset_prefix_cache(self) -> bool:
        return bool(await self.call("reset_prefix_cache"))

    async def check_health(self) -> None:
        """Raises EngineDeadError when the core is gone, or is being started again."""
        await self._ensure_reading()  # a death is noticed from the first question on, not from the first request
        if not self._is_up:
            raise EngineRestartingError("The engine core died and is being started again; running requests go on then.")

    async def check_ready(self) -> None:
        """Raises EngineDeadError when a new request would have to wait for more than its turn."""
        await self.check_health()
        if self._quarantine.active:
            raise EngineRestartingError(
                f"The engine looks for the request that ended its core, among {self._quarantine.num_suspects}; new "
                "requests wait until it is found."
            )

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

    @property
    def client(self) -> ProcessClient:
        return self._supervisor.client

    async def _ensure_reading(self) -> None:
        self._check_alive()
        async with self._connecting:
            if self._reader is None:
                await self.client.connect()
                self._reader = asyncio.create_task(self._read(), name="kvasir-outputs")

    async def _read(self) -> None:
        """Reads until the core ends, starts it again while that is allowed, and goes on."""
        try:
            while not self._closing:
                death = await self._supervisor.run(self._take, pending=lambda: self._output.num_unfinished > 0)
                if self._closing:
                    return
                self._is_up = False
                why = await self._start_again(death)
                if why is not None:
                    self._die(f"{death} {why}")
                    return
        except Exception as error:
            logger.exception("supervision of the engine core failed")
            self._supervisor.close()
            self._die(f"Supervision of the engine core failed: {error}")

    async def _start_again(self, death: Death) -> str | None:
        """A new core takes over every live request where it stood; returns why not, when that is not to be."""
        noticed = time.monotonic()
        live = self._output.num_tokens()
        names = {digest(request_id): request_id for request_id in live}
        in_flight = {names[d]: count for d, count in death.in_flight.items() if d in names}
        ruling = self._quarantine.on_death(death.from_within, in_flight, live)
        self._refuse(ruling.refused)
        num_suspects = self._quarantine.num_suspects
        await asyncio.to_thread(self._supervisor.record, death, ruling, in_flight, len(live), num_suspects)
        why = await self._supervisor.restart(ruling)
        if why is not None or self._closing:
            return why
        await self.client.connect()
        resumed = self._output.resume_requests(self._supervisor.epoch)
        self._is_up = True
        for request in resumed:
            self._submit(request)
        self._release()  # those on trial may have left while there was no core
        recovery = Recovery(death.cause.value, time.monotonic() - noticed, len(ruling.refused))
        for listener in self._recovery_listeners:
            listener(recovery)
        held = f"; {num_suspects} are under suspicion, the others wait for them" if self._quarantine.active else ""
        logger.warning(
            "the engine core is back after %.2f s, %d requests go on%s", recovery.seconds, len(resumed), held
        )
        return None

    def _refuse(self, request_ids: Sequence[str]) -> None:
        for request_id in request_ids:
            logger.error("request %s ended the core twice while it ran alone, and is refused", request_id)
            self._output.fail(
                [request_id],
                "This request ended the engine twice while it ran alone, so it is refused; all others go on. Please "
                f"report it, with the incident files of the server, under the id {request_id}.",
            )

    def _release(self) -> None:
        """Sends what was held back and may go now."""
        if self._quarantine.active:
            for request_id in self._quarantine.note(self._output.num_tokens()):
                self.client.send(self._output.resumed(request_id))

    def _take(self, said: EngineCoreOutput) -> None:
        for listener in self._output_listeners:
            listener(said)
        if said.stats is not None:
            for stats_listener in self._stats_listeners:
                stats_listener(said.stats)
        self._end_in_core(self._output.process(said).to_abort)
        self._release()

    def _die(self, why: str) -> None:
        self.is_alive = False
        self.dead_error = why
        logger.error("%s %d requests are lost.", why, self._output.num_unfinished)
        self._output.fail_all(why)

    def shutdown(self, timeout_s: float = 10.0) -> None:
        """Ends the core process; one that is not gone by then is killed. Idempotent."""
        if self._close():
            self._supervisor.close(timeout_s)

    async def aclose(self, timeout_s: float = 10.0) -> None:
        """The same where other engines share the event loop: it goes on while the core ends."""
        if self._close():
            client = self._supervisor.client
            client.hang_up()
            await asyncio.to_thread(client.wait_exit, timeout_s)
            self._supervisor.close(timeout_s)

    def _close(self) -> bool:
        """Takes no more; False when that was done before."""
        if self._closing:
            return False
        self._closing = True
        self.is_alive = False
        self.dead_error = "The engine was shut down."
        if self._reader is not None:
            self._reader.cancel()
        return True


class _Expiry:
    """Calls `end` when the time is up, whether or not the caller is reading."""

    def __init__(self, left_s: float | None, end: Callable[[], None]):
        self.passed = False
        self._end = end
        loop = asyncio.get_running_loop()
        self._timer = None if left_s is None else loop.call_later(max(left_s, 0.0), self._pass)

    def _pass(self) -> None:
        self.passed = True
        self._end()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def _left_s(deadline: float) -> float | None:
    return deadline - time.time() if deadline else None


def _limits(config: KvasirConfig) -> AdmissionLimits:
    scheduler = config.scheduler
    return AdmissionLimits(
        scheduler.max_num_seqs + scheduler.max_queued_requests, scheduler.max_queued_tokens, scheduler.max_queue_wait
    )
