"""SEAM: a logits processor changes logits before the choice, for the slots that asked for it."""

from collections.abc import Collection
from typing import Protocol

import torch

from kvasir.messages import SlotRequest
from kvasir.sampling.rows import SampleRows


class LogitsProcessor(Protocol):
    """Called by the step's thread only. Nothing here may wait for the device.

    A processor keeps what it needs by slot. The sampler calls `apply` and `after_sample` only in steps with a slot of
    `slots`, so a step without pays for one set comparison. Rows whose slot is not in `slots` must come out unchanged.
    """

    slots: Collection[int]
    """Slots that need it (host)."""

    def add(self, slot: int, request: SlotRequest) -> None:
        """A request takes the slot, new or resumed: `token_ids` after `num_prompt_tokens` are outputs known so far.

        Called for every request; one that does not ask for the feature is ignored.
        """
        ...

    def remove(self, slot: int) -> None:
        """The slot is free; does nothing when it held nothing."""
        ...

    def move(self, source: int, target: int) -> None:
        """What was in `source` is in `target` from now on; what was in `target` is gone."""
        ...

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        """logits [R, V] float32, which may be changed in place -> logits [R, V]."""
        ...

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        """token_ids [R] int64 were sampled; the next step may run before the host has seen them."""
        ...


def moved(table: dict[int, object], source: int, target: int) -> None:
    """The dict side of `move`."""
    table.pop(target, None)
    if source in table:
        table[target] = table.pop(source)
