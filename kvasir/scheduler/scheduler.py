"""Scheduler: plans steps and takes their results. Several planned steps may be in flight."""

import time
from bisect import insort
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from kvasir.errors import EngineError, PromptTooLongError, QueueFullError, UserError
from kvasir.kv_cache import KVCacheManager
from kvasir.messages import (
    EngineCoreOutput,
    EngineCoreRequest,
    EngineState,
    FinishReason,
    ModelRunnerOutput,
    SchedulerOutput,
    SchedulerStats,
)
from kvasir.scheduler.journal import Journal
from kvasir.scheduler.limiter import PREEMPT, SKIP, STOP, KVBlocks, Limiter, SequenceSlots, TokenBudget
from kvasir.scheduler.plan import StepInFlight, StepPlan
from kvasir.scheduler.policies import make_policy
from kvasir.scheduler.queue import QueuePolicy, order_key
from kvasir.scheduler.request import NO_SLOT, Request, RequestState
from kvasir.scheduler.settings import SchedulerSettings
from kvasir.scheduler.state import StepTotals, make_state
from kvasir.scheduler.suspicion import Suspicion
from kvasir.scheduler.update import Outputs, ResultReader

_FINISHED = RequestState.FINISHED


class _Nobody:
    """Stands in a step's rows for a request whose row is not to be read."""

    state = _FINISHED
    plain_until = 0
    tokens = ()


_NOBODY = cast(Request, _Nobody())


class Scheduler:
    """Continuous batching by one rule: a request computes the tokens it has that are not computed yet.

    There is no prefill phase and no decode phase; a request that decodes is one with a single token to do.

    Args:
        extra_limiters: of features; asked after budget and slots, before KV blocks.
        policy: order of waiting requests; by default the one named in `settings`.
        epoch: of this core, stamped on every EngineCoreOutput.
    """

    def __init__(
        self,
        settings: SchedulerSettings,
        kv: KVCacheManager,
        *,
        extra_limiters: Sequence[Limiter] = (),
        policy: QueuePolicy | None = None,
        clock: Callable[[], float] = time.time,
        epoch: int = 0,
    ):
        self.settings = settings
        self.kv = kv
        self.epoch = epoch
        self.running: list[Request] = []  # in order of placement; the last is the first victim
        self.waiting = make_policy(settings.policy) if policy is None else policy
        self._clock = clock
        self._requests: dict[str, Request] = {}
        self._budget = TokenBudget(
            settings.max_num_batched_tokens, settings.enable_chunked_prefill, settings.long_prefill_token_threshold
        )
        self._slots = SequenceSlots(settings.max_num_seqs)
        self._blocks = KVBlocks(kv)
        self._limiters: tuple[Limiter, ...] = (self._budget, self._slots, *extra_limiters, self._blocks)
        self._decodes_ask = any(limiter.asks_decode for limiter in self._limiters)
        self._in_flight: dict[int, StepInFlight] = {}
        self._next_step_id = 0
        self._suspicion = Suspicion(settings.max_step_failures)
        self._reader = ResultReader(self._finish)
        self._stats = SchedulerStats()  # sums since the last report
        self.totals = StepTotals()
        self._journal = Journal(clock)

    # ---- requests come and go

    def add_request(self, message: EngineCoreRequest) -> None:
        """Queues a request, new or resumed.

        Raises:
            QueueFullError: too many wait.
            UserError: the id is in use, or the request has nothing left to generate.
            PromptTooLongError: it fits neither the context nor the KV cache.
        """
        bound = self.settings.max_queued_requests
        num_queued = len(self.waiting) - self._num_idle
        if num_queued >= bound:
            raise QueueFullError(
                f"{num_queued} requests are queued already and the bound is {bound} (max_queued_requests): "
                "try again later, or raise the bound."
            )
        if message.request_id in self._requests:
            raise UserError(f"request id {message.request_id!r} is in use by a request that has not finished.")
        kv_tokens = self.kv.spec.num_tokens
        chain = self.kv.chain(message.cache_salt)
        req = Request(message, chain, self.settings.max_model_len, kv_tokens)
        num_tokens = len(req.tokens)
        if req.num_prompt == 0:
            raise UserError(f"request {req.request_id} has an empty prompt; at least 1 token is needed.")
        if num_tokens >= self.settings.max_model_len:
            raise PromptTooLongError(
                f"request {req.request_id} has {num_tokens} tokens and the context is "
                f"{self.settings.max_model_len} (max_model_len), of which at least 1 must be left for output."
            )
        if num_tokens > kv_tokens:
            raise PromptTooLongError(
                f"request {req.request_id} has {num_tokens} tokens and the KV cache holds {kv_tokens} "
                f"({self.kv.spec.num_blocks} blocks of {self.kv.block_size}): it can never run. "
                "Shorten the prompt or give the cache more memory."
            )
        if num_tokens >= req.max_total:
            raise UserError(
                f"request {req.request_id} has {req.num_output} output tokens already and max_tokens is "
                f"{message.params.max_tokens}: nothing is left to generate."
            )
        self._requests[req.request_id] = req
        self.waiting.push(req)

    @property
    def _num_idle(self) -> int:
        """Requests that could run and do not: those who come for these places are not queueing."""
        return max(0, self.settings.max_num_seqs - len(self.running))

    def abort_requests(self, request_ids: Iterable[str]) -> None:
        """Ends requests at once and silently, also those in a step in flight; unknown ids are ignored."""
        for request_id in request_ids:
            req = self._requests.get(request_id)
            if req is not None:
                self._leave(req, FinishReason.ABORT)
        self._sweep()

    # ---- one step

    def schedule(self) -> SchedulerOutput:
        """Plans a step: running requests in order, then waiting ones, within what the limiters allow.

        May be called before earlier steps' results have come. A plan with rows must be executed; one without
        says nothing and may be dropped.
        """
        plan = self._begin()
        if self._suspicion and (suspect := self._suspicion.on_trial()) is not None:
            self._place_alone(plan, suspect)
            return self._seal(plan)
        index, answer = 0, SKIP
        while answer != STOP and (index := self._place_decodes(plan, index)) < len(self.running):
            answer = self._place_running(plan, self.running[index])
            index += 1
        if answer != STOP and not plan.preempted:
            self._place_waiting(plan)
        return self._seal(plan)

    def _begin(self) -> StepPlan:
        plan = StepPlan(self._next_step_id)
        self._next_step_id += 1
        for limiter in self._limiters:
            limiter.begin()
        return plan

    def _place_decodes(self, plan: StepPlan, start: int) -> int:
        """Places the running rows from `start` on that go on decoding without a decision; returns the index after them.

        Such a row has one token to do, may sample another one, and has the block for it or gets a free one.
        Its expected length grows with what is computed, so `todo` stays 1.
        """
        if self._decodes_ask:
            return start
        rows = self.running[start : start + self._budget.left]
        num_computed = [req.num_computed for req in rows]
        due = [i for i, req in enumerate(rows) if num_computed[i] >= req.fast_until]  # need a block, or are done
        grown: list[tuple[Request, int]] = []
        ended = False
        for i in due:
            req = rows[i]
            if req.num_expected >= req.max_total:  # its last token is in flight
                ended = True
            elif req.todo == 1 and self._blocks.add_one(req):
                grown += [(req, block_id) for block_id in self._blocks.granted]
                self._publish(req, min(num_computed[i], len(req.tokens)), plan.step_id)
            else:
                del rows[i:], num_computed[i:]
                break
        end = start + len(rows)
        if ended:
            rows = [req for req in rows if req.num_expected < req.max_total]
            num_computed = [req.num_computed for req in rows]
        for req in rows:
            req.num_computed += 1
        if rows:
            self._budget.left -= len(rows)
            plan.add_decodes(rows, num_computed, grown)
        return end

    def _place_running(self, plan: StepPlan, req: Request) -> int:
        if req.num_expected >= req.max_total:
            return SKIP
        while (n := self._ask(req)) == PREEMPT:
            victim = self.running.pop()
            self._preempt(victim)
            plan.preempted = True
            if victim is req:
                return PREEMPT
        if n > 0:
            self._take(plan, req, n)
        return n

    def _place_waiting(self, plan: StepPlan) -> None:
        placed = []
        for req in self.waiting.order(self._clock()):
            if not self._budget.left or not self._slots.num_free:
                break
            if req.num_in_flight:  # preempted; its token lands first
                continue
            n = self._try_waiting(plan, req)
            if n > 0:
                placed.append(req)
            elif n == STOP:
                break
        self._now_running(placed)

    def _try_waiting(self, plan: StepPlan, req: Request) -> int:
        """Adds the request's first row, if the limiters agree; the caller moves it to those that run."""
        req.num_hits = self._find_prefix(req)
        req.num_computed = req.num_hits * self.kv.block_size
        req.todo -= req.num_computed
        n = self._ask(req)
        if n > 0:
            self._take(plan, req, n)
        else:
            req.rewind(keep_in_flight=False)
        return n

    def _now_running(self, placed: Sequence[Request]) -> None:
        for req in placed:
            self.waiting.remove(req)
            insort(self.running, req, key=order_key)

    def _place_alone(self, plan: StepPlan, req: Request) -> None:
        """A step without anybody else, once all others have landed. Whoever is in its way gives its place back."""
        if self._in_flight:
            return
        if req.state is RequestState.RUNNING:
            self._place_running(plan, req)
            return
        while (n := self._try_waiting(plan, req)) == STOP and self.running:
            self._preempt(self.running.pop())
        if n > 0:
            self._now_running([req])

    def _find_prefix(self, req: Request) -> int:
        if not req.reads_cache:
            return 0
        return self.kv.lookup(req.chain.extend(req.tokens), len(req.tokens))

    def _ask(self, req: Request) -> int:
        n = req.todo
        for limiter in self._limiters:
            n = limiter.limit(req, n)
            if n <= 0:
                break
        return n

    def _take(self, plan: StepPlan, req: Request, n: int) -> None:
        """Adds the row; the blocks it fills become findable as of this step."""
        is_new = req.slot == NO_SLOT
        for limiter in self._limiters:
            limiter.take(req, n)
        samples = n == req.todo
        if is_new:
            self._note_placed(req)
            plan.add_placed(req, n, samples, self._blocks.granted)
        else:
            plan.add_row(req, n, samples, self._blocks.granted)
        req.num_computed += n
        req.todo += samples - n
        self._publish(req, min(req.num_computed, len(req.tokens)), plan.step_id)

    def _note_placed(self, req: Request) -> None:
        req.become(RequestState.RUNNING)
        self._journal.placed(req, req.num_hits * self.kv.block_size)
        if not req.was_placed:
            req.was_placed = True
            if req.reads_cache and self.kv.enable_prefix_caching:
                hits = req.num_hits * self.kv.block_size
                req.num_cached = min(hits, req.num_prompt)
                self.kv.count_query(len(req.tokens), hits)

    def _publish(self, req: Request, num_tokens: int, step_id: int | None) -> None:
        if self.kv.enable_prefix_caching:
            self.kv.publish(req.request_id, req.chain.extend(req.tokens), num_tokens // self.kv.block_size, step_id)

    def _preempt(self, req: Request) -> None:
        """Takes slot and blocks away; tokens of steps in flight are still its own."""
        self._journal.preempted(req, self.kv.num_free_blocks)
        self._vacate(req)
        req.rewind(keep_in_flight=True)
        req.become(RequestState.PREEMPTED)
        self.waiting.push(req)
        self._stats.num_preempted += 1

    def _seal(self, plan: StepPlan) -> SchedulerOutput:
        step = plan.columns
        if not plan.rows:
            return step
        step.freed_slots = self._slots.collect_freed()
        num_tokens = self.settings.max_num_batched_tokens - self._budget.left
        self._in_flight[step.step_id] = StepInFlight(plan.rows, num_tokens)
        if self.waiting.charges:
            for req, n in zip(plan.rows, step.num_scheduled_tokens, strict=True):
                self.waiting.charge(req, n)
        return step

    # ---- its result

    def update_from_output(self, step: SchedulerOutput, result: ModelRunnerOutput) -> dict[int, EngineCoreOutput]:
        """Takes a step's result; returns what each front process is to hear. Results come in order of steps."""
        flight = self._land(step)
        outputs = Outputs(self.epoch, step.step_id, self._clock())
        if flight is None:
            return outputs.by_client
        if result.step_id != step.step_id or len(result.num_sampled) != len(flight.rows):
            raise EngineError(
                f"step {step.step_id} has {len(flight.rows)} rows; the result is of step {result.step_id} "
                f"with {len(result.num_sampled)} rows."
            )
        for limiter in self._limiters:
            limiter.update(step, result)
        self._reader.read(flight.rows, step, result, outputs)
        if self._suspicion:
            self._suspicion.clear(flight.rows, step)
        self._sweep()
        self._journal.attach(outputs.by_client)
        self._count_step(flight, result.step_s)
        return outputs.by_client

    def _count_step(self, flight: StepInFlight, step_s: float) -> None:
        self.totals.add(flight.num_tokens, step_s)
        stats = self._stats
        stats.num_scheduled_tokens += flight.num_tokens
        stats.step_s = step_s
        if flight.num_tokens > len(flight.rows):
            stats.num_prefill_steps += 1
            stats.prefill_s += step_s
        else:
            stats.num_decode_steps += 1
            stats.decode_s += step_s

    def fail_step(self, step: SchedulerOutput, message: str) -> dict[int, EngineCoreOutput]:
        """The step's work did not happen: its requests, and those that read blocks it was to fill, start over.

        They lose their slots, recompute what they had, and sample the same tokens again. Later steps in flight
        may still be updated from or failed; their rows of these requests are ignored. A request that had to start
        over `max_step_failures` times without getting past the failure, the last time in a step of its own, ends
        with an error that carries `message`.
        """
        flight = self._land(step)
        outputs = Outputs(self.epoch, step.step_id, self._clock())
        if flight is None:
            return outputs.by_client
        for limiter in self._limiters:
            limiter.update(step, None)
        hurt = {req: None for req in flight.rows if req.state is not _FINISHED}
        hurt |= {self._requests[i]: None for i in self.kv.withdraw_from(step.step_id)}
        # The worker may have missed which slots and blocks belong to whom, and later steps run on what it believes:
        # they may write anywhere. Then nothing in the cache can be trusted, and everybody starts over.
        spoiled = bool(self._in_flight and (step.freed_slots or step.new_requests or step.new_block_ids))
        if spoiled:
            later_rows = [req for later in self._in_flight.values() for req in later.rows]
            hurt |= {req: None for req in [*self.running, *later_rows] if req.state is not _FINISHED}
        for later in self._in_flight.values():
            later.rows = [_NOBODY if req in hurt else req for req in later.rows]
        aims = map(int.__add__, step.num_computed_tokens, step.num_scheduled_tokens)
        aim_of = dict(zip(flight.rows, aims, strict=True))
        for req in hurt:
            self._start_over(req, aim_of.get(req, 0), step.step_id, message, outputs)
        self._sweep()
        if spoiled:
            self.kv.reset_prefix_cache()
        return outputs.by_client

    def _start_over(self, req: Request, aim: int, step_id: int, message: str, outputs: Outputs) -> None:
        """`aim`: tokens that it would have computed by the end of the step."""
        count = self._suspicion.add(req, aim)
        if count >= self.settings.max_step_failures:
            text = f"step {step_id} failed, the {count}. failure in a row for request {req.request_id}: {message}"
            self._reader.end(req, outputs, FinishReason.ERROR, error=text)
            return
        if req.state is RequestState.RUNNING:
            self._preempt(req)
        req.rewind(keep_in_flight=False)

    def _land(self, step: SchedulerOutput) -> StepInFlight | None:
        """The step's record, no longer in flight; None for a plan without rows."""
        flight = self._in_flight.pop(step.step_id, None)
        if flight is None and step.num_rows:
            raise EngineError(f"step {step.step_id} is not in flight: its result was taken already.")
        return flight

    # ---- endings

    def _finish(self, req: Request, reason: FinishReason) -> None:
        """As `_leave`, and what it computed for certain becomes findable: all but its newest token."""
        if req.state is RequestState.RUNNING and reason is not FinishReason.ERROR:
            self._publish(req, min(req.num_computed, len(req.tokens) - 1), None)
        self._leave(req, reason)

    def _leave(self, req: Request, reason: FinishReason) -> None:
        """Out of every structure but `running`, which `_sweep` cleans."""
        if req.state is RequestState.RUNNING:
            self._vacate(req)
        else:
            self.waiting.remove(req)
        req.become(_FINISHED)
        del self._requests[req.request_id]
        self._suspicion.forget(req)
        self._journal.ended(req)

    def _vacate(self, req: Request) -> None:
        for limiter in reversed(self._limiters):  # the slot goes last: features may still want its number
            limiter.release(req)

    def _sweep(self) -> None:
        if len(self.running) + len(self.waiting) != len(self._requests):
            self.running = [req for req in self.running if req.state is RequestState.RUNNING]

    # ---- looking in

    def has_work(self) -> bool:
        """Whether a request is unfinished or a step in flight."""
        return bool(self._requests or self._in_flight)

    @property
    def num_waiting(self) -> int:
        return len(self.waiting)

    @property
    def num_running(self) -> int:
        return len(self.running)

    def make_stats(self) -> SchedulerStats:
        """The present state, and sums since the last call."""
        stats, self._stats = self._stats, SchedulerStats()
        stats.num_running, stats.num_waiting = self.num_running, self.num_waiting
        stats.kv_blocks_total, stats.kv_blocks_used = self.kv.spec.num_blocks, self.kv.num_used_blocks
        stats.prefix_queries, stats.prefix_hits = self.kv.prefix_queries, self.kv.prefix_hits
        self.kv.prefix_queries = self.kv.prefix_hits = 0
        stats.num_recomputed_tokens, self._journal.num_recomputed = self._journal.num_recomputed, 0
        return stats

    def make_state(self) -> EngineState:
        """The present state in detail, for people who watch. Changes nothing."""
        return make_state(self, self._clock())

    def prompt_progress(self, request_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Of those that run: tokens of the prompt that were found in the cache, and tokens computed, those included."""
        running = [req for i in request_ids if (req := self._requests.get(i)) and req.state is RequestState.RUNNING]
        return {req.request_id: (req.num_cached, min(req.num_computed, req.num_prompt)) for req in running}

    def reset_prefix_cache(self) -> bool:
        """Forgets cached prefixes; refused (False) while requests hold blocks."""
        return self.kv.reset_prefix_cache()

    def check_integrity(self) -> None:
        """Audits blocks, slots and states. Raises EngineError that lists what is wrong."""
        self.kv.check_integrity()
        wrong = self._slots.wrong(self.running)
        if [r.order_key for r in self.running] != sorted(r.order_key for r in self.running):
            wrong.append("running requests are out of order")
        if len(self.running) + len(self.waiting) != len(self._requests):
            wrong.append(f"{len(self._requests)} requests, {len(self.running)} run and {len(self.waiting)} wait")
        wrong += [f"{req} is among the running" for req in self.running if req.state is not RequestState.RUNNING]
        for req in self.waiting.order(self._clock()):
            if req.slot != NO_SLOT or req.state not in (RequestState.WAITING, RequestState.PREEMPTED):
                wrong.append(f"{req} is among the waiting with slot {req.slot}")
        if wrong:
            raise EngineError("the scheduler is inconsistent: " + "; ".join(wrong))
