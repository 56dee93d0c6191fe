"""logit_bias: adds a number to the logits of some tokens."""

import torch

from kvasir.messages import SlotRequest
from kvasir.sampling.processors.sparse import SparseTable
from kvasir.sampling.rows import SampleRows
from kvasir.sampling.uploads import Uploads


class LogitBias:
    def __init__(self, uploads: Uploads):
        self._table = SparseTable(uploads)
        self.slots = self._table.slots

    def add(self, slot: int, request: SlotRequest) -> None:
        bias = request.params.logit_bias
        if bias:
            self._table.add(slot, list(bias), list(bias.values()))

    def remove(self, slot: int) -> None:
        self._table.remove(slot)

    def move(self, source: int, target: int) -> None:
        self._table.move(source, target)

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        e = self._table.entries(rows)
        logits[e.rows, e.token_ids] = logits[e.rows, e.token_ids] + e.values
        return logits

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        pass
