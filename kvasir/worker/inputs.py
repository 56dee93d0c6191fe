"""A plan's rows as the model will see them: host numbers, and the tensors made from them.

Rows are sorted by their number of tokens, since attention backends treat rows of one token, and very long ones, apart;
`StepLayout.order` leads back to the plan's rows.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from kvasir.attention.backend import AttentionBatch
from kvasir.messages import SchedulerOutput
from kvasir.worker.states import RequestStates

FROM_DEVICE = -1
"""Marks an input id the host does not know: the slot's last sampled token."""


@dataclass(frozen=True)
class StepLayout:
    """Host numbers of one step.

    Attributes:
        order: batch row -> plan row.
        slots, lens, context: [R] int64, by batch row: slot, tokens to compute, tokens computed before.
        sample_rows: [B] int64, batch rows that sample.
    """

    order: np.ndarray
    slots: np.ndarray
    lens: np.ndarray
    context: np.ndarray
    sample_rows: np.ndarray

    @classmethod
    def of(cls, plan: SchedulerOutput) -> "StepLayout":
        lens = np.asarray(plan.num_scheduled_tokens, dtype=np.int64)
        order = np.argsort(lens, kind="stable")
        samples = np.asarray(plan.samples, dtype=bool)[order]
        slots = np.asarray(plan.slots, dtype=np.int64)[order]
        context = np.asarray(plan.num_computed_tokens, dtype=np.int64)[order]
        return cls(order, slots, lens[order], context, np.flatnonzero(samples))

    @property
    def num_rows(self) -> int:
        return len(self.slots)

    @cached_property
    def num_tokens(self) -> int:
        return int(self.lens.sum())

    @cached_property
    def num_decodes(self) -> int:
        """Rows with one token; they come first."""
        return int((self.lens == 1).sum())

    @cached_property
    def starts(self) -> np.ndarray:
        """[R + 1] int64, cumulative lengths."""
        starts = np.zeros(self.num_rows + 1, dtype=np.int64)
        np.cumsum(self.lens, out=starts[1:])
        return starts

    @cached_property
    def host_slots(self) -> list[int]:
        return self.slots.tolist()

    @cached_property
    def is_uniform_decode(self) -> bool:
        """Every row computes one token and samples, so that every input id is its slot's newest token."""
        return self.num_decodes == self.num_rows == len(self.sample_rows)

    def host_ids(self, states: RequestStates) -> np.ndarray:
        """[T] ids the host knows; FROM_DEVICE for the others."""
        ids = np.full(self.num_tokens, FROM_DEVICE, dtype=np.int64)
        at = 0
        for slot, first, count in zip(self.host_slots, self.context.tolist(), self.lens.tolist(), strict=True):
            known = states.slot(slot).token_ids
            if first < len(known):
                chunk = known[first : first + count]
                ids[at : at + len(chunk)] = chunk
            at += count
        return ids


@dataclass(frozen=True)
class InputBatch:
    """One step on the device. Padding of a captured step comes after R rows and T tokens.

    Attributes:
        slots: [R] int64.
        input_ids, positions: [T] int64.
        sample_slots, sample_tokens: [B] int64, of the rows that sample: slot, and index of the last token in T.
        attention: the ragged shape for the attention backend.
    """

    layout: StepLayout
    slots: torch.Tensor
    input_ids: torch.Tensor
    positions: torch.Tensor
    sample_slots: torch.Tensor
    sample_tokens: torch.Tensor
    attention: AttentionBatch
