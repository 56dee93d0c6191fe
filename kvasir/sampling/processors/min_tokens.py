"""min_tokens: masks the end-of-sequence and stop ids while fewer than min_tokens outputs exist.

How many exist is told by the position on the device, so an overlapped step is right as well. The host counts sampled
tokens too, only to notice when a slot needs this no longer; it never counts too many (drafts make it count too few).
"""

import torch

from kvasir.messages import SlotRequest
from kvasir.sampling.processor import moved
from kvasir.sampling.processors.sparse import SparseTable
from kvasir.sampling.rows import SampleRows
from kvasir.sampling.uploads import Uploads


class MinTokens:
    def __init__(self, uploads: Uploads):
        self._table = SparseTable(uploads)
        self.slots = self._table.slots
        self._missing: dict[int, int] = {}  # slot -> outputs it still needs, at most

    def add(self, slot: int, request: SlotRequest) -> None:
        params = request.params
        missing = params.min_tokens - (len(request.token_ids) - request.num_prompt_tokens)
        ids = {*request.stop_token_ids, *(params.stop_token_ids or ()), *request.eos_token_ids}
        if missing <= 0 or not ids:
            return
        self._missing[slot] = missing
        self._table.add(slot, sorted(ids), [float(params.min_tokens)] * len(ids))

    def remove(self, slot: int) -> None:
        self._table.remove(slot)
        self._missing.pop(slot, None)

    def move(self, source: int, target: int) -> None:
        self._table.move(source, target)
        moved(self._missing, source, target)

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        e = self._table.entries(rows)
        early = rows.num_output_tokens[e.rows] < e.values
        old = logits[e.rows, e.token_ids]
        logits[e.rows, e.token_ids] = torch.where(early, float("-inf"), old)
        return logits

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        for slot in set(rows.host_slots) & self._missing.keys():
            self._missing[slot] -= 1
            if self._missing[slot] <= 0:
                self.remove(slot)
