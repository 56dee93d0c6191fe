"""Log-probabilities of prompt tokens, for rows that asked, chunk by chunk as the prompt is computed."""

import numpy as np
import torch

from kvasir.models.interface import TextModel
from kvasir.sampling import LogprobTensors, prompt_logprobs
from kvasir.sampling.uploads import to_device
from kvasir.worker.inputs import InputBatch, StepLayout
from kvasir.worker.states import RequestStates


class PromptLogprobs:
    """The logits at position p give the log-probability of prompt token p + 1."""

    def __init__(self, model: TextModel, states: RequestStates, vocab_size: int, device: torch.device):
        self._model = model
        self._states = states
        self._vocab_size = vocab_size
        self._device = device

    def wanted(self, layout: StepLayout) -> bool:
        """Whether some row of the step asked for them."""
        slots = self._states.with_prompt_logprobs
        return bool(slots) and not slots.isdisjoint(layout.host_slots)

    def compute(self, batch: InputBatch, hidden: torch.Tensor) -> dict[int, LogprobTensors]:
        """plan row -> log-probabilities of the prompt tokens whose predecessors this step computed. hidden: [T, E]"""
        found: dict[int, LogprobTensors] = {}
        at = 0
        layout = batch.layout
        for row, (slot, count) in enumerate(zip(layout.host_slots, layout.lens.tolist(), strict=True)):
            start = at
            at += count
            host = self._states.slot(slot)
            k = host.params.prompt_logprobs
            if k is None:
                continue
            first = int(layout.context[row]) + 1  # prompt position of the first target
            targets = host.token_ids[first : min(first + count, host.num_prompt_tokens)]
            if len(targets):
                found[int(layout.order[row])] = self._row(hidden[start : start + len(targets)], targets, k)
        return found

    def _row(self, hidden: torch.Tensor, targets: np.ndarray, k: int) -> LogprobTensors:
        """hidden: [n, E]; the logits are made a bounded number of rows at a time."""
        return prompt_logprobs(
            lambda begin, end: self._model.compute_logits(hidden[begin:end]),  # [m, V]
            to_device(targets, self._device),
            k,
            self._vocab_size,
        )
