"""One worker in this process, on the caller's thread or on a thread of its own."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from kvasir.executor.base import StepHandle
from kvasir.messages import ModelRunnerOutput, Ready, SchedulerOutput, TokenMasks


class LocalWorker(Protocol):
    """What `make_worker` returns; `sample_tokens` may return before the device is done."""

    def start(self) -> Ready: ...

    def execute_model(self, plan: SchedulerOutput) -> None: ...

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> StepHandle: ...

    def call(self, name: str, args: dict[str, Any]) -> Any: ...

    def stop(self) -> None: ...


class _Raised:
    """A handle whose step failed before it could be launched."""

    def __init__(self, error: BaseException):
        self._error = error

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        raise self._error


class UniProcExecutor:
    """Drives one in-process worker.

    Args:
        make_worker: called on the thread that will run the steps.
        threaded: run the worker on its own thread. On a CPU that is what overlap means: torch
            releases the interpreter lock inside its kernels, and the core schedules meanwhile.
            A CUDA device is asynchronous by itself and is driven from the caller's thread.

    An error of `execute_model` is raised by the handle of that step, as a later failure would be.
    """

    def __init__(self, make_worker: Callable[[], LocalWorker], *, threaded: bool):
        self._make_worker = make_worker
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kvasir-worker") if threaded else None
        self._worker: LocalWorker | None = None
        self._failed: dict[int, BaseException] = {}

    def start(self) -> Ready:
        def start() -> Ready:
            self._worker = self._make_worker()
            return self._worker.start()

        return self._pool.submit(start).result() if self._pool else start()

    def execute_model(self, plan: SchedulerOutput) -> None:
        if self._pool:
            self._pool.submit(self._execute, plan)
        else:
            self._execute(plan)

    def _execute(self, plan: SchedulerOutput) -> None:
        try:
            self._require().execute_model(plan)
        except Exception as error:
            self._failed[plan.step_id] = error

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> StepHandle:
        if self._pool:
            future: Future[ModelRunnerOutput] = self._pool.submit(lambda: self._sample(step_id, masks).result())
            return future
        return self._sample(step_id, masks)

    def _sample(self, step_id: int, masks: TokenMasks | None) -> StepHandle:
        earlier = self._failed.pop(step_id, None)
        if earlier is not None:
            return _Raised(earlier)
        try:
            return self._require().sample_tokens(step_id, masks)
        except Exception as error:
            return _Raised(error)

    def call(self, name: str, args: dict[str, Any]) -> Any:
        worker = self._require()
        return self._pool.submit(worker.call, name, args).result() if self._pool else worker.call(name, args)

    def stop(self) -> None:
        if self._worker is not None:
            self._pool.submit(self._worker.stop).result() if self._pool else self._worker.stop()
            self._worker = None
        if self._pool:
            self._pool.shutdown()

    def _require(self) -> LocalWorker:
        if self._worker is None:
            raise RuntimeError("the executor was not started")
        return self._worker
