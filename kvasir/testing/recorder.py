"""StepRecorder: any executor, with what went in and came out kept."""

import threading
from concurrent.futures import Future
from typing import Any

from kvasir.messages import ModelRunnerOutput, Ready, SchedulerOutput, TokenMasks
from kvasir.messages.wire import copy


class StepRecorder:
    """Passes everything on to `inner`; `steps` holds (plan, result) pairs in the order in which results came.

    Plans are copied when they pass, so that a later change to one shows up as a difference.
    """

    def __init__(self, inner: Any):
        self.inner = inner
        self.steps: list[tuple[SchedulerOutput, ModelRunnerOutput]] = []
        self.failed: list[tuple[SchedulerOutput, BaseException]] = []
        self._plans: dict[int, SchedulerOutput] = {}
        self._lock = threading.Lock()

    def start(self) -> Ready:
        return self.inner.start()

    def execute_model(self, step: SchedulerOutput) -> None:
        self._plans[step.step_id] = copy(step)
        self.inner.execute_model(step)

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> Future[ModelRunnerOutput]:
        future = self.inner.sample_tokens(step_id, masks)
        future.add_done_callback(lambda done: self._record(step_id, done))
        return future

    def _record(self, step_id: int, done: Future[ModelRunnerOutput]) -> None:
        with self._lock:
            plan, error = self._plans.pop(step_id), done.exception()
            if error is None:
                self.steps.append((plan, done.result()))
            else:
                self.failed.append((plan, error))

    def call(self, name: str, args: dict[str, Any]) -> Any:
        return self.inner.call(name, args)

    def stop(self) -> None:
        self.inner.stop()
