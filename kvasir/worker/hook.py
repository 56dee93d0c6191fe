"""SEAMS: what rank 9 features may do around a step. The runner loops over hooks and never asks which feature is on."""

from typing import Any, Protocol

import torch

from kvasir.messages import SchedulerOutput, TokenMasks
from kvasir.sampling import LogitsProcessor
from kvasir.worker.inputs import InputBatch
from kvasir.worker.states import RequestStates


class StepHook(Protocol):
    """Called in the order `assembly` installed the hooks; a hook never calls another."""

    def before_forward(self, plan: SchedulerOutput, states: RequestStates) -> None:
        """The plan has been applied to the states, on the device too."""
        ...

    def after_forward(self, batch: InputBatch, hidden: torch.Tensor) -> None:
        """hidden: [T, E]"""
        ...

    def after_sample(self, batch: InputBatch, token_ids: torch.Tensor) -> tuple[str, Any] | None:
        """token_ids: [B]. What it returns travels in `ModelRunnerOutput.parts` under that name."""
        ...

    def close(self) -> None: ...


class MaskSink(LogitsProcessor, Protocol):
    """The last of the logits processors: limits rows to the tokens that came with the step."""

    def take(self, masks: TokenMasks | None) -> None:
        """The masks of the step that is sampled next, and of no other."""
        ...
