"""thinking: ends a thought that has used up its budget, by leaving no other token than the one that ends it.

Whether a slot thinks, and until when, is a number on the device: the count of output tokens at which the end is due.
The step that samples the tag of a beginning or an end moves it, so an overlapped step is right as well. This processor
comes last: nothing after it may forbid the end.
"""

import torch

from kvasir.messages import SlotRequest, ThinkingBudget
from kvasir.sampling.rows import SampleRows
from kvasir.sampling.uploads import Uploads, to_device

MAX_TOKENS_BEFORE = 4
"""A thought is one only at the beginning of an answer: so many tokens (blanks) may come before its tag."""
_NOT_BEGUN, _OVER = 2**62, 2**62 + 1  # counts that no answer reaches
_DUE, _END, _START, _BUDGET = range(4)


class Thinking:
    def __init__(self, max_num_seqs: int, uploads: Uploads):
        self.slots: set[int] = set()
        self._max_num_seqs, self._uploads = max_num_seqs, uploads
        self._table: torch.Tensor | None = None  # [M, 4] int64, made by the first request that needs it
        self._cached: tuple[list[int], torch.Tensor] | None = None

    def add(self, slot: int, request: SlotRequest) -> None:
        wanted = request.params.thinking
        if wanted is None:
            return
        if self._table is None:
            self._table = torch.zeros(self._max_num_seqs, 4, dtype=torch.int64, device=self._uploads.device)
        start = -1 if wanted.start_token_id is None else wanted.start_token_id
        row = [due_after(wanted, request.token_ids[request.num_prompt_tokens :]), wanted.end_token_id, start]
        self._uploads.put([*row, wanted.budget], lambda words: self._table[slot].copy_(words))
        self.slots.add(slot)
        self._cached = None

    def remove(self, slot: int) -> None:
        self.slots.discard(slot)
        self._cached = None

    def move(self, source: int, target: int) -> None:
        self.slots.discard(target)
        if source in self.slots:
            self._uploads.do(lambda _: self._table[target].copy_(self._table[source]))
            self.slots.remove(source)
            self.slots.add(target)
        self._cached = None

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        row = self._rows(rows)
        asked = self._table[rows.slots[row]]  # [r, 4]
        free = logits[row]  # [r, V]
        ended = torch.full_like(free, float("-inf")).scatter_(1, asked[:, _END, None], 0.0)
        due = rows.num_output_tokens[row] >= asked[:, _DUE]
        logits[row] = torch.where(due[:, None], ended, free)
        return logits

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        row = self._rows(rows)
        slot, sampled, count = rows.slots[row], token_ids[row], rows.num_output_tokens[row]
        asked = self._table[slot]
        due = asked[:, _DUE]
        begins = (sampled == asked[:, _START]) & (due == _NOT_BEGUN) & (count < MAX_TOKENS_BEFORE)
        due = torch.where(begins, count + 1 + asked[:, _BUDGET], due)
        self._table[slot, _DUE] = torch.where(sampled == asked[:, _END], _OVER, due)

    def _rows(self, rows: SampleRows) -> torch.Tensor:
        """[r] int64, the rows of the slots that asked; copied to the device when they change, not each step."""
        if self._cached is None or self._cached[0] != rows.host_slots:
            asking = [r for r, slot in enumerate(rows.host_slots) if slot in self.slots]
            self._cached = (list(rows.host_slots), to_device(asking, self._uploads.device))
        return self._cached[1]


def due_after(wanted: ThinkingBudget, output_ids: list[int]) -> int:
    """The count of output tokens at which the end is due, after those that exist already."""
    due = wanted.budget if wanted.inside else _NOT_BEGUN
    for count, token_id in enumerate(output_ids):
        if token_id == wanted.end_token_id:
            return _OVER
        if token_id == wanted.start_token_id and due == _NOT_BEGUN and count < MAX_TOKENS_BEFORE:
            due = count + 1 + wanted.budget
    return due
