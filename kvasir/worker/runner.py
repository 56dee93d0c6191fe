"""ModelRunner: one step is execute_model (state, inputs, forward), then sample_tokens (logits, sample, append)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kvasir.attention.backend import MetadataBuilder
from kvasir.attention.forward_context import ForwardContext, forward_context
from kvasir.errors import UserError
from kvasir.messages import SchedulerOutput
from kvasir.models.interface import TextModel
from kvasir.sampling import PendingSamples, Sampler, SampleRows
from kvasir.worker.hook import StepHook
from kvasir.worker.inputs import InputBatch, build_inputs
from kvasir.worker.outputs import PendingStep
from kvasir.worker.prompt_logprobs import PromptLogprobs
from kvasir.worker.states import RequestStates


@dataclass(frozen=True)
class ExecutedStep:
    """Between the two calls: the forward pass is launched, nothing is sampled yet. hidden: [T, E]"""

    plan: SchedulerOutput
    batch: InputBatch
    hidden: torch.Tensor
    started: float


class ModelRunner:
    """Data flow of the step and nothing else; CPU and CUDA share every line of it."""

    def __init__(
        self,
        model: TextModel,
        states: RequestStates,
        sampler: Sampler,
        builder: MetadataBuilder,
        kv_caches: list[torch.Tensor],
        hooks: Sequence[StepHook] = (),
    ):
        self.model = model
        self.states = states
        self.sampler = sampler
        self.builder = builder
        self.kv_caches = kv_caches
        self.hooks = hooks
        self._prompt_logprobs = PromptLogprobs(model, states, sampler.state.vocab_size)
        self._executed: ExecutedStep | None = None
        self._refused: dict[int, str] = {}  # slot -> why its request cannot be sampled

    @torch.inference_mode()
    def execute_model(self, plan: SchedulerOutput) -> None:
        """Launches the forward pass of a plan; a plan without rows only changes the states."""
        started = time.perf_counter()
        self._executed = None
        self._apply(plan)
        if not plan.num_rows:
            return
        batch = build_inputs(plan, self.states)
        for hook in self.hooks:
            hook.before_forward(batch)
        with forward_context(ForwardContext(self.builder.build(batch.attention), self.kv_caches)):
            hidden = self.model.forward(batch.input_ids, batch.positions)  # [T, E]
        self.states.num_computed[batch.slots] += batch.query_lens
        for hook in self.hooks:
            hook.after_forward(batch, hidden)
        self._executed = ExecutedStep(plan, batch, hidden, started)

    def _apply(self, plan: SchedulerOutput) -> None:
        sampling = self.sampler.state
        for slot in plan.freed_slots:
            sampling.remove(slot)
            self._refused.pop(slot, None)
        for request in self.states.apply(plan):
            sampling.remove(request.slot)  # after a failed step a request may come again into the slot it had
            self._refused.pop(request.slot, None)
            try:
                sampling.add(request.slot, request)
            except UserError as error:  # this request fails; its neighbours never notice
                self._refused[request.slot] = error.message
        sampling.flush()
        for hook in self.hooks:
            hook.apply(plan, self.states)

    @torch.inference_mode()
    def sample_tokens(self, step_id: int) -> PendingStep:
        """Samples the step executed last and appends the tokens to the device's state."""
        step = self._executed
        if step is None or step.plan.step_id != step_id:
            raise RuntimeError(f"sample_tokens({step_id}) without execute_model of that step")
        self._executed = None
        batch = step.batch
        prompt_logprobs = self._prompt_logprobs.compute(batch, step.hidden)
        logits = self.model.compute_logits(step.hidden[batch.sample_tokens])  # [B, V]
        rows = SampleRows(
            slots=batch.sample_slots,
            host_slots=[batch.host_slots[row] for row in batch.sample_rows],
            positions=self.states.num_computed[batch.sample_slots],
        )
        sampled = self.sampler.sample(logits, rows)
        self.states.last_token[batch.sample_slots] = sampled.token_ids
        parts = [part for hook in self.hooks if (part := hook.after_sample(batch, sampled.token_ids)) is not None]
        return PendingStep(
            plan=step.plan,
            plan_rows=[batch.order[row] for row in batch.sample_rows],
            samples=PendingSamples(sampled),
            prompt=prompt_logprobs,
            errors=self._errors(step.plan),
            parts=dict(parts),
            started=step.started,
        )

    def _errors(self, plan: SchedulerOutput) -> dict[int, str]:
        if not self._refused:
            return {}
        return {row: self._refused[slot] for row, slot in enumerate(plan.slots) if slot in self._refused}
