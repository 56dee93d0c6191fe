"""Sampled tensors -> ModelRunnerOutput. The copies start at once; only `PendingStep.result` waits for them."""

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kvasir.messages import ModelRunnerOutput, SchedulerOutput
from kvasir.sampling import LogprobTensors, PendingSamples


@dataclass(frozen=True)
class PendingStep:
    """A step whose kernels are launched and whose results are on their way to the host.

    Attributes:
        plan_rows: plan row of each sampled token.
        prompt: plan row -> log-probabilities of its prompt tokens, still on the device.
        errors: plan row -> why that request alone has failed, known before sampling.
        started: `time.perf_counter()` when the step began.
    """

    plan: SchedulerOutput
    plan_rows: list[int]
    samples: PendingSamples
    prompt: dict[int, LogprobTensors]
    errors: dict[int, str]
    parts: dict[str, Any]
    started: float

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        """Waits for the device, then builds the message."""
        host = self.samples.result()
        if len(self.plan_rows) == self.plan.num_rows:
            num_sampled = [1] * self.plan.num_rows
        else:
            num_sampled = [0] * self.plan.num_rows
            for row in self.plan_rows:
                num_sampled[row] = 1
        token_ids = host.token_ids
        if any(a > b for a, b in pairwise(self.plan_rows)):
            token_of = dict(zip(self.plan_rows, token_ids, strict=True))
            token_ids = [token_of[row] for row in sorted(token_of)]
        return ModelRunnerOutput(
            step_id=self.plan.step_id,
            num_sampled=num_sampled,
            token_ids=token_ids,
            logprobs={self.plan_rows[i]: [entry] for i, entry in host.logprobs.items()},
            prompt_logprobs={row: tensors.entries() for row, tensors in self.prompt.items()},
            errors={self.plan_rows[i]: text for i, text in host.errors.items()} | self.errors,
            step_s=time.perf_counter() - self.started,
            parts=self.parts,
        )
