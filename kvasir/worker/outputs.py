"""Sampled tensors -> ModelRunnerOutput. The copies start at once; only `PendingStep.result` waits for them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from kvasir.messages import ModelRunnerOutput, SchedulerOutput
from kvasir.sampling import LogprobTensors, PendingSamples


@dataclass(frozen=True)
class PendingStep:
    """A step whose kernels are launched and whose results are on their way to the host.

    Attributes:
        plan_rows: plan row of each sampled token; a `range` where each row samples, in the plan's order.
        prompt: plan row -> log-probabilities of its prompt tokens, still on the device.
        errors: plan row -> why that request alone has failed, known before sampling.
        started: `time.perf_counter()` when the step began.
    """

    plan: SchedulerOutput
    plan_rows: Sequence[int]
    samples: PendingSamples
    prompt: dict[int, LogprobTensors]
    errors: dict[int, str]
    parts: dict[str, Any]
    started: float

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        """Waits for the device, then builds the message."""
        self.samples.wait()
        landed = time.perf_counter()
        host = self.samples.result()
        num_sampled, token_ids = self._in_plan_order(host.token_ids)
        errors = {self.plan_rows[i]: text for i, text in host.errors.items()} | self.errors
        logprobs = {self.plan_rows[i]: [entry] for i, entry in host.logprobs.items()}
        prompt_logprobs = {row: tensors.entries() for row, tensors in self.prompt.items()}
        now = time.perf_counter()
        return ModelRunnerOutput(
            step_id=self.plan.step_id,
            num_sampled=num_sampled,
            token_ids=token_ids,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            errors=errors,
            step_s=now - self.started,
            parts=self.parts,
            read_s=now - landed,
        )

    def _in_plan_order(self, token_ids: list[int]) -> tuple[list[int], list[int]]:
        """How many tokens each plan row sampled, and the tokens."""
        rows, num_rows = self.plan_rows, self.plan.num_rows
        if isinstance(rows, range):  # all rows, in order: most steps
            return [1] * num_rows, token_ids
        num_sampled = [0] * num_rows
        for row in rows:
            num_sampled[row] = 1
        if any(a > b for a, b in pairwise(rows)):
            token_of = dict(zip(rows, token_ids, strict=True))
            token_ids = [token_of[row] for row in sorted(token_of)]
        return num_sampled, token_ids
