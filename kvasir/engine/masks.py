"""SEAM: who limits which tokens a step may sample (grammars), between `execute_model` and `sample_tokens`."""

from typing import Any, Protocol

from kvasir.messages import EngineCoreRequest, SchedulerOutput, TokenMasks


class MaskSource(Protocol):
    """Called by the engine core's thread. A step none of whose rows is limited is sampled as soon as it is launched."""

    def add(self, request: EngineCoreRequest) -> None:
        """A request was queued; what takes time may begin."""

    def rows(self, plan: SchedulerOutput) -> Any | None:
        """What to remember of a plan just made, for `masks`; None when no row that samples is limited."""

    def masks(self, rows: Any) -> tuple[TokenMasks | None, dict[int, str]]:
        """The results of all earlier steps are in. Masks, and row of the plan -> why its request failed.

        One request's failure is never raised: it would take its neighbours along.
        """

    def close(self) -> None: ...
