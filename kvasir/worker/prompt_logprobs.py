"""Log-probabilities of prompt tokens, for rows that asked, chunk by chunk as the prompt is computed."""

import numpy as np
import torch

from kvasir.models.interface import TextModel
from kvasir.sampling import LogprobTensors, prompt_logprobs
from kvasir.worker.inputs import InputBatch
from kvasir.worker.states import RequestStates


class PromptLogprobs:
    """The logits at position p give the log-probability of prompt token p + 1."""

    def __init__(self, model: TextModel, states: RequestStates, vocab_size: int):
        self._model = model
        self._states = states
        self._vocab_size = vocab_size

    def compute(self, batch: InputBatch, hidden: torch.Tensor) -> dict[int, LogprobTensors]:
        """plan row -> log-probabilities of the prompt tokens whose predecessors this step computed. hidden: [T, E]"""
        found: dict[int, LogprobTensors] = {}
        at = 0
        for row, slot in enumerate(batch.host_slots):
            start, count = at, batch.attention.query_lens[row]
            at += count
            host = self._states.slot(slot)
            k = host.params.prompt_logprobs
            if k is None:
                continue
            first = batch.attention.context_lens[row] + 1  # prompt position of the first target
            targets = host.token_ids[first : min(first + count, host.num_prompt_tokens)]
            if len(targets):
                found[batch.order[row]] = self._row(hidden[start : start + len(targets)], targets, k)
        return found

    def _row(self, hidden: torch.Tensor, targets: np.ndarray, k: int) -> LogprobTensors:
        """hidden: [n, E]; the logits are made a bounded number of rows at a time."""
        return prompt_logprobs(
            lambda begin, end: self._model.compute_logits(hidden[begin:end]),  # [m, V]
            self._states.to_device(targets),
            k,
            self._vocab_size,
        )
