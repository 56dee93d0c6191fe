"""SEAM: what the engine core asks of its workers."""

from typing import Any, Protocol

from kvasir.messages import ModelRunnerOutput, Ready, SchedulerOutput, TokenMasks


class StepHandle(Protocol):
    """A result that may not be there yet (concurrent.futures.Future fits)."""

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        """Waits for the step; raises what the step raised."""
        ...


class Executor(Protocol):
    def start(self) -> Ready:
        """Loads the model, sizes and allocates the KV cache, warms up. Called once, first."""
        ...

    def execute_model(self, plan: SchedulerOutput) -> None:
        """Applies the plan and starts its forward pass. Steps run in the order of these calls."""
        ...

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> StepHandle:
        """Starts sampling of the step executed last, within `masks`: the call that a grammar's mask may wait for."""
        ...

    def call(self, name: str, args: dict[str, Any]) -> Any:
        """Runs a named worker method between steps."""
        ...

    def stop(self) -> None: ...
