"""Log-probabilities of prompt tokens, for rows that asked, chunk by chunk as the prompt is computed."""

import torch

from kvasir.messages import SchedulerOutput
from kvasir.models.interface import CausalLM
from kvasir.sampling import LogprobColumns, prompt_logprobs
from kvasir.worker.inputs import InputBatch
from kvasir.worker.states import RequestStates


class PromptLogprobs:
    """The logits at position p give the log-probability of prompt token p + 1."""

    def __init__(self, model: CausalLM, states: RequestStates):
        self._model = model
        self._states = states

    def compute(self, plan: SchedulerOutput, batch: InputBatch, hidden: torch.Tensor) -> dict[int, LogprobColumns]:
        """plan row -> log-probabilities of the prompt tokens whose predecessors this step computed. hidden: [T, E]"""
        found: dict[int, LogprobColumns] = {}
        at = 0
        for row, slot in enumerate(batch.host_slots):
            start, count = at, batch.attention.query_lens[row]
            at += count
            host = self._states.slot(slot)
            if host.params.prompt_logprobs is None:
                continue
            first = batch.attention.context_lens[row] + 1  # prompt position of the first target
            targets = host.token_ids[first : min(first + count, host.num_prompt_tokens)]
            if len(targets) == 0:
                continue
            logits = self._model.compute_logits(hidden[start : start + len(targets)])  # [n, V]
            found[batch.order[row]] = prompt_logprobs(
                logits, self._states.to_device(targets), host.params.prompt_logprobs
            )
        return found
