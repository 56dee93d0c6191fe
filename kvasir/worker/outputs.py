"""Sampled tensors -> ModelRunnerOutput. Copies start at once; only `PendingStep.result` waits for them."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from kvasir.messages import ModelRunnerOutput, SchedulerOutput, TokenLogprobs
from kvasir.sampling import LogprobColumns, SampledTokens, columns_to_host
from kvasir.worker.inputs import InputBatch


def start_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A host copy that is under way; read it only after the step's event."""
    if tensor.device.type == "cpu":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


@dataclass
class PendingStep:
    """A step whose kernels are launched and whose results are on their way to the host.

    Attributes:
        token_ids: [B] int64 host copy of the sampled tokens.
        plan_rows: plan row of each of them.
        logprobs: host copies, or None when no row asked; `logprob_rows` gives each row's k.
        prompt: plan row -> host copies of the prompt's.
        errors: batch index (of B) -> message, known on the host already.
    """

    plan: SchedulerOutput
    token_ids: torch.Tensor
    plan_rows: list[int]
    logprobs: LogprobColumns | None
    prompt: dict[int, LogprobColumns]
    parts: dict[str, Any]
    event: Any = None
    _clock: Callable[[], float] = time.perf_counter
    _started: float = field(default=0.0)

    def started(self, at: float, clock: Callable[[], float]) -> None:
        self._started, self._clock = at, clock

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        """Waits for the device, then builds the message."""
        if self.event is not None:
            self.event.synchronize()
        num_sampled = [0] * self.plan.num_rows
        order = sorted(range(len(self.plan_rows)), key=self.plan_rows.__getitem__)
        ids = self.token_ids.tolist()
        for row in self.plan_rows:
            num_sampled[row] = 1
        return ModelRunnerOutput(
            step_id=self.plan.step_id,
            num_sampled=num_sampled,
            token_ids=[ids[i] for i in order],
            logprobs=self._logprobs(),
            prompt_logprobs={row: columns_to_host(columns) for row, columns in self.prompt.items()},
            step_s=self._clock() - self._started,
            parts=self.parts,
        )

    def _logprobs(self) -> dict[int, list[TokenLogprobs]]:
        if self.logprobs is None:
            return {}
        return {
            self.plan_rows[i]: [entry]
            for i, entry in zip(self.logprobs.rows, columns_to_host(self.logprobs), strict=True)
        }


def collect_step(
    plan: SchedulerOutput,
    batch: InputBatch,
    sampled: SampledTokens,
    prompt: dict[int, LogprobColumns],
    parts: dict[str, Any],
) -> PendingStep:
    """Starts the copies to the host and marks the end of the step on the device's stream."""
    pending = PendingStep(
        plan=plan,
        token_ids=start_copy(sampled.token_ids),
        plan_rows=[batch.order[row] for row in batch.sample_rows],
        logprobs=None if sampled.logprobs is None else sampled.logprobs.map(start_copy),
        prompt={row: columns.map(start_copy) for row, columns in prompt.items()},
        parts=parts,
    )
    if sampled.token_ids.device.type == "cuda":
        pending.event = torch.cuda.Event()
        pending.event.record()
    return pending
