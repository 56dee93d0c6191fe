"""AsyncLLM: the engine behind the server. The core runs in its own process; one task reads what it says."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self

from kvasir.config import EngineArgs, KvasirConfig
from kvasir.engine.admission import Admission, AdmissionLimits
from kvasir.engine.client import ProcessClient
from kvasir.engine.fanout import fan_out
from kvasir.engine.input import InputProcessor, prompt_text
from kvasir.engine.output import OutputProcessor, RequestOutputCollector
from kvasir.engine.restart import Restart
from kvasir.engine.slow_checks import SlowChecks
from kvasir.engine.terms import NO_TERMS, RequestTerms
from kvasir.errors import DeadlineError, EngineDeadError, KvasirError, RequestFailedError
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

StatsListener = Callable[[SchedulerStats], None]
OutputListener = Callable[[EngineCoreOutput], None]


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
        client: ProcessClient,
        ready: Ready,
        input_processor: InputProcessor,
        tokenizer: Tokenizer | None,
        default_sampling_params: dict[str, Any] | None = None,
        restart: Restart | None = None,
    ):
        self.config = config
        self.client = client
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
        self._restart = restart
        self._is_up = True  # False while a new core starts
        self._reader: asyncio.Task[None] | None = None
        self._stats_listeners: list[StatsListener] = []
        self._output_listeners: list[OutputListener] = []
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
                self._send(child.request)
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
        aborted = self._output.abort(request_ids)
        if aborted.to_abort:
            self._send(Control("abort", {"request_ids": aborted.to_abort}))

    def _send(self, message: EngineCoreRequest | Control) -> None:
        """To the core, if there is one: a new core is told of every live request, and of no other."""
        if self._is_up and self.is_alive:
            self.client.send(message)

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
            raise EngineDeadError("The engine core died and is being started again; running requests go on then.")

    def _check_alive(self) -> None:
        if not self.is_alive:
            raise EngineDeadError(self.dead_error or "The engine core is gone.")

    def add_stats_listener(self, listener: StatsListener) -> None:
        """`listener` is called with the scheduler's figures, at most once per step."""
        self._stats_listeners.append(listener)

    def add_output_listener(self, listener: OutputListener) -> None:
        """`listener` sees each message of the core before it is processed (metrics)."""
        self._output_listeners.append(listener)

    async def _ensure_reading(self) -> None:
        self._check_alive()
        async with self._connecting:
            if self._reader is None:
                await self.client.connect()
                self._reader = asyncio.create_task(self._read(), name="kvasir-outputs")

    async def _read(self) -> None:
        """Reads until the core ends, starts it again while that is allowed, and goes on."""
        while True:
            why = await self._read_one_core()
            if self._closing:
                return
            if not await self._start_again(why):
                self._die(why)
                return

    async def _read_one_core(self) -> str:
        """Until the core is gone; returns why."""
        try:
            while (said := await self.client.receive()) is not None:
                self._take(said)
        except Exception as error:
            logger.exception("reading from the engine core failed")
            self.client.kill()
            return f"Reading from the engine core failed: {error}"
        code = self.client.wait_exit()
        return f"The engine core has ended with exit code {code}."

    async def _start_again(self, why: str) -> bool:
        """A new core takes over every live request where it stood; False when that is not to be."""
        while self._restart is not None and self._restart.allowed():
            self._is_up = False
            logger.warning("%s It is started again; %d requests will go on.", why, self._output.num_unfinished)
            started = time.monotonic()
            try:
                client = await asyncio.to_thread(self._restart.start)
            except KvasirError as error:
                why = f"{why} Starting it again failed: {error.message}"
                continue
            if self._closing:
                client.kill()
                return True
            self.client = client
            await client.connect()
            for request in self._output.resume_requests(self._restart.epoch):
                client.send(request)
            self._is_up = True
            logger.warning("the engine core is back after %.2f s", time.monotonic() - started)
            return True
        return False

    def _take(self, said: EngineCoreOutput) -> None:
        for listener in self._output_listeners:
            listener(said)
        if said.stats is not None:
            for stats_listener in self._stats_listeners:
                stats_listener(said.stats)
        processed = self._output.process(said)
        if processed.to_abort:
            self._send(Control("abort", {"request_ids": processed.to_abort}))

    def _die(self, why: str) -> None:
        self.is_alive = False
        self.dead_error = why
        logger.error("%s %d requests are lost.", why, self._output.num_unfinished)
        self._output.fail_all(why)

    def shutdown(self) -> None:
        """Ends the core process. Idempotent."""
        if not self._closing:
            self._closing = True
            self.is_alive = False
            self.dead_error = "The engine was shut down."
            if self._reader is not None:
                self._reader.cancel()
            if self._restart is not None:
                self._restart.stop()
            self.client.close()


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
