"""allowed_token_ids: masks every other token."""

import torch

from kvasir.messages import SlotRequest
from kvasir.sampling.processors.sparse import SparseTable
from kvasir.sampling.rows import SampleRows
from kvasir.sampling.uploads import Uploads


class AllowedTokenIds:
    def __init__(self, uploads: Uploads):
        self._table = SparseTable(uploads)
        self.slots = self._table.slots

    def add(self, slot: int, request: SlotRequest) -> None:
        if request.params.allowed_token_ids:
            self._table.add(slot, request.params.allowed_token_ids)

    def remove(self, slot: int) -> None:
        self._table.remove(slot)

    def move(self, source: int, target: int) -> None:
        self._table.move(source, target)

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        e = self._table.entries(rows)
        kept = logits[e.rows, e.token_ids]
        logits.index_fill_(0, e.touched, float("-inf"))
        logits[e.rows, e.token_ids] = kept
        return logits

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        pass
