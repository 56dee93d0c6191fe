"""Lists of token ids by slot, and their concatenation for the rows of a step.

Rows change seldom compared with steps, so the concatenation is kept until they do: a step costs one launch, however
many slots have lists.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kvasir.sampling.processor import moved
from kvasir.sampling.rows import SampleRows
from kvasir.sampling.uploads import Uploads, to_device


@dataclass(frozen=True)
class SparseEntries:
    """n entries of the rows that have lists, one after the other.

    Attributes:
        rows: [n] int64, row of the logits.
        token_ids: [n] int64.
        values: [n] float32, what was stored with each id (zeros where nothing was).
        touched: [r] int64, the rows that have lists.
    """

    rows: torch.Tensor
    token_ids: torch.Tensor
    values: torch.Tensor
    touched: torch.Tensor


class SparseTable:
    def __init__(self, uploads: Uploads):
        self.slots: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._device = uploads.device
        self._cached: tuple[list[int], SparseEntries] | None = None

    def add(self, slot: int, token_ids: Sequence[int], values: Sequence[float] | None = None) -> None:
        ids = np.asarray(token_ids, dtype=np.int64)
        weights = np.zeros(len(ids)) if values is None else np.asarray(values, dtype=np.float64)
        self.slots[slot] = (ids, weights)
        self._cached = None

    def remove(self, slot: int) -> None:
        if self.slots.pop(slot, None) is not None:
            self._cached = None

    def move(self, source: int, target: int) -> None:
        moved(self.slots, source, target)
        self._cached = None

    def entries(self, rows: SampleRows) -> SparseEntries:
        """The step's entries; one copy to the device when the rows changed since the last call, else none."""
        if self._cached is not None and self._cached[0] == rows.host_slots:
            return self._cached[1]
        touched = [r for r, slot in enumerate(rows.host_slots) if slot in self.slots]
        lists = [self.slots[rows.host_slots[r]] for r in touched]
        lengths = [len(ids) for ids, _ in lists]
        n = sum(lengths)
        words = to_device(
            np.concatenate([
                np.repeat(np.asarray(touched, dtype=np.int64), lengths),
                *(ids for ids, _ in lists),
                *(weights.view(np.int64) for _, weights in lists),
                np.asarray(touched, dtype=np.int64),
            ]),
            self._device,
        )  # fmt: skip
        made = SparseEntries(
            rows=words[:n],
            token_ids=words[n : 2 * n],
            values=words[2 * n : 3 * n].view(torch.float64).float(),
            touched=words[3 * n :],
        )
        self._cached = (list(rows.host_slots), made)
        return made
