"""EngineCore: schedule -> execute_model -> sample_tokens -> update_from_output. No sockets, no threads."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kvasir import envs
from kvasir.engine.masks import MaskSource
from kvasir.engine.step_times import StepTimes
from kvasir.errors import ConfigError, DeviceFaultError, KvasirError
from kvasir.executor import Executor, StepHandle
from kvasir.logger import get_logger
from kvasir.messages import (
    Control,
    EngineCoreOutput,
    EngineCoreRequest,
    Finished,
    FinishReason,
    Ready,
    Reply,
    SchedulerOutput,
    SchedulerStats,
    wire,
)
from kvasir.platforms import is_device_fault
from kvasir.scheduler import Scheduler
from kvasir.utils.heartbeat import Heartbeat

logger = get_logger(__name__)

STATS_INTERVAL_S = 0.1
IDLE_S = 0.001
"""A pause when nothing runs and all that wait are held back from outside (a grammar is being compiled)."""

Outputs = dict[int, EngineCoreOutput]
"""client index -> what this step has to say to it"""


@dataclass
class Launched:
    """A step on its way.

    Attributes:
        handle: where its result will be; None while it waits to be sampled.
        masked_rows: what its `MaskSource` waits with, for the tokens of the step before.
        errors: rows that failed while their masks were made.
    """

    plan: SchedulerOutput
    handle: StepHandle | None = None
    masked_rows: Any = None
    errors: dict[int, str] = field(default_factory=dict)


class EngineCore:
    """One scheduler over one executor.

    The plain loop is `step`. With `overlap` the core stays one step ahead of the executor: step N + 1
    is scheduled and launched before the result of step N is taken, and must give the same tokens.

    Args:
        make_scheduler: makes the scheduler once the executor has said how many blocks there are.
        masks: who limits which tokens rows may sample.
        heartbeat: told of every step that is launched and that lands.
        step_times: measure phases of steps from the start; a control call switches it.
    """

    def __init__(
        self,
        executor: Executor,
        make_scheduler: Callable[[Ready], Scheduler],
        *,
        overlap: bool,
        epoch: int = 0,
        masks: MaskSource | None = None,
        heartbeat: Heartbeat | None = None,
        step_times: bool = False,
    ):
        self.executor = executor
        self.ready = executor.start()
        self._heartbeat = heartbeat or Heartbeat.private(self.ready.max_num_seqs)
        self.scheduler = make_scheduler(self.ready)
        self.epoch = epoch
        self._overlap = overlap
        self._masks = masks
        self._in_flight: Launched | None = None
        self._times = StepTimes(step_times)
        self._had_work = False
        self._rejected: list[tuple[int, str, str]] = []
        self._reported = 0.0
        self._quiet_work_left = True
        self._copy_messages = envs.CHECK_MESSAGES.flag
        self._audit = envs.CHECK_INTEGRITY.flag
        gc.collect()
        gc.freeze()  # what exists now lives as long as we do: keep it out of every later collection

    # -- requests ---------------------------------------------------------------------------------------------

    def add_request(self, request: EngineCoreRequest) -> None:
        """Raises QueueFullError when the waiting queue is at its bound."""
        self.scheduler.add_request(wire.copy(request) if self._copy_messages else request)
        if self._masks is not None:
            self._masks.add(request)

    def abort_requests(self, request_ids: list[str]) -> None:
        self.scheduler.abort_requests(request_ids)

    def reject(self, request: EngineCoreRequest, error: Exception) -> None:
        """Answers a request that could not be queued, with the next outputs."""
        self._rejected.append((request.client_index, request.request_id, str(error)))

    @property
    def has_work(self) -> bool:
        return self._in_flight is not None or bool(self._rejected) or self.scheduler.has_work()

    def use_quiet_moment(self) -> bool:
        """Does a piece of work that can wait for a moment without requests; whether more is left."""
        if self._quiet_work_left:
            self._quiet_work_left = bool(self.executor.call("idle", {}))
        return self._quiet_work_left

    def check_idle(self) -> None:
        """Without requests every block is free; one that is not would be missing for ever."""
        used = self.scheduler.kv.num_used_blocks
        if used and not self.has_work:
            logger.error("%d KV blocks are in use and there is no request: a leak, please report it", used)

    # -- the step ---------------------------------------------------------------------------------------------

    def step(self) -> Outputs:
        """One turn of the loop; returns what became known in it (empty when nothing did)."""
        self._times.begin(self._had_work)
        launched = self._launch()
        if self._overlap:
            launched, self._in_flight = self._in_flight, launched
            outputs = self._finish(launched)
            self._sample(self._in_flight)  # if it had to wait for that result
        else:
            self._sample(launched)
            outputs = self._finish(launched)
        self._times.end()
        if launched is None and self._in_flight is None and self.scheduler.has_work():
            time.sleep(IDLE_S)
        self._add_rejected(outputs)
        self._add_stats(outputs)
        if self._audit:
            self.scheduler.check_integrity()
        self._had_work = self.has_work
        return outputs

    def _launch(self) -> Launched | None:
        plan = self.scheduler.schedule()
        if self._copy_messages:
            plan = wire.copy(plan)
        self._times.mark("schedule")
        if not plan.num_rows:
            return None
        self._times.launch(plan)
        self._heartbeat.launch(plan)
        self.executor.execute_model(plan)
        self._times.detail("execute")
        masked_rows = None if self._masks is None else self._masks.rows(plan)
        if masked_rows is not None:
            return Launched(plan, masked_rows=masked_rows)
        handle = self.executor.sample_tokens(plan.step_id)
        self._times.detail("sample")
        return Launched(plan, handle)

    def _sample(self, launched: Launched | None) -> None:
        """Samples a launched step that had to wait: the tokens before its own are known now, its forward pass runs."""
        if launched is None or launched.handle is not None:
            return
        assert self._masks is not None
        masks, launched.errors = self._masks.masks(launched.masked_rows)
        if self._copy_messages and masks is not None:
            masks = wire.copy(masks)
        launched.handle = self.executor.sample_tokens(launched.plan.step_id, masks)
        self._times.detail("sample")

    def _finish(self, launched: Launched | None) -> Outputs:
        if launched is None:
            return {}
        assert launched.handle is not None
        try:
            result = launched.handle.result()
        except Exception as error:
            logger.exception("step %d failed with %d rows", launched.plan.step_id, launched.plan.num_rows)
            if is_device_fault(error):
                raise DeviceFaultError(
                    f"The device failed in step {launched.plan.step_id} and needs a new process: {error}"
                ) from error
            self._heartbeat.land(launched.plan.step_id)
            return self.scheduler.fail_step(launched.plan, f"The step failed: {type(error).__name__}: {error}")
        self._times.land(launched.plan, result)
        self._heartbeat.land(launched.plan.step_id)
        if self._copy_messages:
            result = wire.copy(result)
        if launched.errors:
            result = msgspec.structs.replace(result, errors={**result.errors, **launched.errors})
        outputs = self.scheduler.update_from_output(launched.plan, result)
        self._times.mark("update")
        return outputs

    def _add_stats(self, outputs: Outputs) -> None:
        """Figures for the first front process, a few times a second and when the work ends."""
        now = time.monotonic()
        if now - self._reported < STATS_INTERVAL_S and self.has_work:
            return
        self._reported = now
        out = outputs.get(0)
        if out is None:
            out = outputs[0] = EngineCoreOutput(self.epoch, -1, time.time())
        out.stats = self._make_stats()

    def _make_stats(self) -> SchedulerStats:
        stats = self.scheduler.make_stats()
        phases = self._times.take()
        stats.schedule_s, stats.update_s = phases.phase_s["schedule"], phases.phase_s["update"]
        if self._times.detailed and phases.num_steps:
            stats.measured = phases
        return stats

    def _add_rejected(self, outputs: Outputs) -> None:
        rejected, self._rejected = self._rejected, []
        for client, request_id, text in rejected:
            out = outputs.get(client)
            if out is None:
                out = outputs[client] = EngineCoreOutput(self.epoch, -1, 0.0, client_index=client)
            out.request_ids.append(request_id)
            out.first_index.append(0)
            out.num_new.append(0)
            out.finished.append(Finished(len(out.request_ids) - 1, FinishReason.ERROR, error=text))

    # -- everything that is not a request -----------------------------------------------------------------------

    def control(self, message: Control) -> Reply:
        """Runs a named call; its errors are the caller's, never the step's."""
        try:
            return Reply(message.call_id, self._control(message.name, message.args))
        except KvasirError as error:
            return Reply(message.call_id, error=error.message)
        except Exception as error:
            logger.exception("control %s failed", message.name)
            return Reply(message.call_id, error=f"{type(error).__name__}: {error}")

    def _control(self, name: str, args: dict[str, Any]) -> Any:
        if name == "abort":
            return self.abort_requests(args["request_ids"])
        if name == "reset_prefix_cache":
            return self.scheduler.reset_prefix_cache()
        if name == "stats":
            return self._make_stats()
        if name == "step_times":
            return self._times.switch(bool(args["on"]))
        if name == "state":
            return self.scheduler.make_state()
        if name == "progress":
            return self.scheduler.prompt_progress(args["request_ids"])
        if name == "check_integrity":
            return self.scheduler.check_integrity()
        if name == "worker":
            return self.executor.call(args["name"], args.get("args", {}))
        raise ConfigError(
            f"unknown control call {name!r}; known: abort, reset_prefix_cache, stats, step_times, state, "
            "progress, check_integrity, worker"
        )

    def shutdown(self) -> None:
        self._in_flight = None
        if self._masks is not None:
            self._masks.close()
        self.executor.stop()
