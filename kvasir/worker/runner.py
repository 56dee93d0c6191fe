"""ModelRunner: one step is execute_model (state, inputs, forward), then sample_tokens (logits, sample, append)."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kvasir.errors import UserError
from kvasir.logger import get_logger
from kvasir.messages import SchedulerOutput
from kvasir.models.interface import TextModel
from kvasir.platforms import is_device_fault
from kvasir.sampling import PendingSamples, SampledTokens, Sampler, SampleRows
from kvasir.worker.forward import DecodePass, Forward, RaggedPass
from kvasir.worker.graphs import StepGraphs
from kvasir.worker.hook import StepHook
from kvasir.worker.inputs import StepLayout
from kvasir.worker.outputs import PendingStep
from kvasir.worker.prompt_logprobs import PromptLogprobs
from kvasir.worker.states import RequestStates

logger = get_logger(__name__)


@dataclass(frozen=True)
class ExecutedStep:
    """Between the two calls: the forward pass is launched, nothing is sampled yet."""

    plan: SchedulerOutput
    forward: Forward
    started: float


class ModelRunner:
    """Data flow of the step and nothing else; CPU and CUDA share every line of it.

    Args:
        decode: the pass of steps in which every row decodes; None: the attention backend needs host numbers, so that
            those steps are ragged ones too.
        graphs: replays sampling where the forward pass was replayed; None: nothing is captured here.
    """

    def __init__(
        self,
        model: TextModel,
        states: RequestStates,
        sampler: Sampler,
        ragged: RaggedPass,
        decode: DecodePass | None = None,
        graphs: StepGraphs | None = None,
        hooks: Sequence[StepHook] = (),
    ):
        self.model = model
        self.states = states
        self.sampler = sampler
        self.hooks = hooks
        self._ragged = ragged
        self._decode = decode
        self._graphs = graphs
        self._prompt_logprobs = PromptLogprobs(model, states, sampler.state.vocab_size, sampler.state.device)
        self._executed: ExecutedStep | None = None
        self._refused: dict[int, str] = {}  # slot -> why its request cannot be sampled

    @torch.inference_mode()
    def execute_model(self, plan: SchedulerOutput) -> None:
        """Launches the forward pass of a plan; a plan without rows only changes the states."""
        started = time.perf_counter()
        self._executed = None
        self._apply(plan)
        if not plan.num_rows:
            self.sampler.state.flush()
            return
        layout = StepLayout.of(plan)
        step: DecodePass | RaggedPass = self._ragged
        if self._decode is not None and layout.is_uniform_decode:
            step = self._decode
            step.stage(layout)
        else:
            self._ragged.stage(layout, needs_all=bool(self.hooks) or self._prompt_logprobs.wanted(layout))
        self.sampler.state.flush()
        for hook in self.hooks:
            hook.before_forward(plan, self.states)
        forward = step.run()
        for hook in self.hooks:
            hook.after_forward(forward.batch, forward.hidden)
        self._executed = ExecutedStep(plan, forward, started)

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
            except Exception as error:  # this request fails; its neighbours never notice
                if is_device_fault(error):
                    raise
                self._refused[request.slot] = str(error)
                if not isinstance(error, UserError):
                    logger.exception("request %s could not be made ready for sampling", request.request_id)
                    self._refused[request.slot] = f"Its sampling could not be set up: {type(error).__name__}: {error}"

    @torch.inference_mode()
    def sample_tokens(self, step_id: int) -> PendingStep:
        """Samples the step executed last and appends the tokens to the device's state."""
        step = self._executed
        if step is None or step.plan.step_id != step_id:
            raise RuntimeError(f"sample_tokens({step_id}) without execute_model of that step")
        self._executed = None
        batch, layout = step.forward.batch, step.forward.batch.layout
        prompt_logprobs = {}
        if self._prompt_logprobs.wanted(layout):
            prompt_logprobs = self._prompt_logprobs.compute(batch, step.forward.hidden)
        sampled = self._sample(step.forward)
        pending = PendingSamples(sampled)
        if self._graphs is not None:
            self._graphs.capture_missing(step.forward)
        parts = [part for hook in self.hooks if (part := hook.after_sample(batch, sampled.token_ids)) is not None]
        return PendingStep(
            plan=step.plan,
            plan_rows=layout.sampled_plan_rows,
            samples=pending,
            prompt=prompt_logprobs,
            errors=self._errors(step.plan),
            parts=dict(parts),
            started=step.started,
        )

    def _sample(self, forward: Forward) -> SampledTokens:
        """Samples, and appends the tokens to the device's state."""
        if self._graphs is not None and self._graphs.may_sample(forward):
            return self._graphs.sample(forward)
        batch, tables = forward.batch, self.states.tables
        logits = forward.logits
        if logits is None:
            hidden = forward.hidden if forward.only_sampled else forward.hidden[batch.sample_tokens]  # [B, E]
            logits = self.model.compute_logits(hidden)  # [B, V]
        layout = batch.layout
        rows = SampleRows(
            slots=batch.sample_slots,
            host_slots=layout.slots[layout.sample_rows].tolist(),
            positions=tables.num_computed[batch.sample_slots],
        )
        sampled = self.sampler.sample(logits, rows)
        tables.last_token[batch.sample_slots] = sampled.token_ids
        return sampled

    def _errors(self, plan: SchedulerOutput) -> dict[int, str]:
        if not self._refused:
            return {}
        return {row: self._refused[slot] for row, slot in enumerate(plan.slots) if slot in self._refused}
