"""A plan's rows as the model will see them: host numbers, and the tensors made from them.

Rows are sorted by their number of tokens, since attention backends treat rows of one token, and very long ones, apart;
`StepLayout.order` leads back to the plan's rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from kvasir.messages import SchedulerOutput
from kvasir.worker.states import RequestStates

FROM_DEVICE = -1
"""Marks an input id the host does not know: the slot's last sampled token."""


@dataclass(frozen=True)
class StepLayout:
    """Host numbers of one step. Most steps are uniform decodes and most of them need few of these: made when asked for.

    Attributes:
        is_uniform_decode: every row computes one token and samples, so that every input id is its slot's newest token.
    """

    plan: SchedulerOutput
    is_uniform_decode: bool

    @classmethod
    def of(cls, plan: SchedulerOutput) -> "StepLayout":
        return cls(plan, plan.num_scheduled_tokens.count(1) == plan.num_rows and all(plan.samples))

    @property
    def num_rows(self) -> int:
        return self.plan.num_rows

    @cached_property
    def order(self) -> np.ndarray:
        """[R] int64, batch row -> plan row: by rising length."""
        if self.is_uniform_decode:
            return np.arange(self.num_rows)
        return np.argsort(np.asarray(self.plan.num_scheduled_tokens, dtype=np.int64), kind="stable")

    def _by_batch_row(self, column: Sequence[int], dtype: type = np.int64) -> np.ndarray:
        values = np.asarray(column, dtype=dtype)
        return values if self.is_uniform_decode else values[self.order]

    @cached_property
    def slots(self) -> np.ndarray:
        """[R] int64, by batch row, as `lens` (tokens to compute) and `context` (tokens computed before)."""
        return self._by_batch_row(self.plan.slots)

    @cached_property
    def lens(self) -> np.ndarray:
        return self._by_batch_row(self.plan.num_scheduled_tokens)

    @cached_property
    def context(self) -> np.ndarray:
        return self._by_batch_row(self.plan.num_computed_tokens)

    @cached_property
    def sample_rows(self) -> np.ndarray:
        """[B] int64, batch rows that sample."""
        return np.flatnonzero(self._by_batch_row(self.plan.samples, bool))

    @cached_property
    def sampled_plan_rows(self) -> Sequence[int]:
        """[B] plan row of each row that samples."""
        if self.is_uniform_decode:
            return range(self.num_rows)
        return self.order[self.sample_rows].tolist()

    @cached_property
    def num_tokens(self) -> int:
        return self.num_rows if self.is_uniform_decode else int(self.lens.sum())

    @cached_property
    def num_decodes(self) -> int:
        """Rows with one token; they come first."""
        return self.num_rows if self.is_uniform_decode else int((self.lens == 1).sum())

    @cached_property
    def starts(self) -> np.ndarray:
        """[R + 1] int64, cumulative lengths."""
        starts = np.zeros(self.num_rows + 1, dtype=np.int64)
        np.cumsum(self.lens, out=starts[1:])
        return starts

    @cached_property
    def host_slots(self) -> list[int]:
        return self.plan.slots if self.is_uniform_decode else self.slots.tolist()

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
    """

    layout: StepLayout
    slots: torch.Tensor
    input_ids: torch.Tensor
    positions: torch.Tensor
    sample_slots: torch.Tensor
    sample_tokens: torch.Tensor
