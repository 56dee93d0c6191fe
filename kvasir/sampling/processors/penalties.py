"""Repetition, presence and frequency penalties.

Repetition looks at prompt and output (a logit above 0 is divided by it, one below multiplied), presence and
frequency at the output only; in that order, as the field does. Token counts lie on the device and are raised by the
sampled tokens there, so they are right before the host has seen a token. A row of counts (5 bytes a vocabulary entry)
exists only for a request that asks; row 0 takes the counts of all other slots and is never read.
"""

import numpy as np
import torch

from kvasir.messages import SlotRequest
from kvasir.sampling.processor import moved
from kvasir.sampling.rows import SampleRows
from kvasir.sampling.uploads import Uploads, to_device

_FIRST_ROWS = 4


class Penalties:
    def __init__(self, max_num_seqs: int, vocab_size: int, uploads: Uploads):
        self.slots: dict[int, int] = {}  # slot -> its row of the tables
        self._vocab_size, self._uploads = vocab_size, uploads
        device = uploads.device
        self._row_of_slot = torch.zeros(max_num_seqs, dtype=torch.int64, device=device)
        self._free: list[int] = []
        self._counts = torch.zeros(0, vocab_size, dtype=torch.int32, device=device)  # [rows, V] of the output
        self._in_prompt = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)  # [rows, V]
        self._amounts = torch.zeros(0, 3, dtype=torch.float32, device=device)  # repetition, presence, frequency
        self._cached: tuple[list[int], torch.Tensor] | None = None

    def add(self, slot: int, request: SlotRequest) -> None:
        params = request.params
        amounts = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        if amounts == (1.0, 0.0, 0.0):
            return
        self.remove(slot)
        if not self._free:
            self._grow()
        row = self.slots[slot] = self._free.pop()
        ids = np.asarray(request.token_ids, dtype=np.int64)
        prompt, output = ids[: request.num_prompt_tokens], ids[request.num_prompt_tokens :]
        prompt = np.unique(prompt[prompt < self._vocab_size])  # placeholders of other inputs lie above the vocabulary
        output, counts = np.unique(output[output < self._vocab_size], return_counts=True)
        packed = np.concatenate([np.asarray(amounts).view(np.int64), prompt, output, counts])

        def write(words: torch.Tensor) -> None:
            seen, rest = words[3 : 3 + len(prompt)], words[3 + len(prompt) :].view(2, -1)
            self._amounts[row] = words[:3].view(torch.float64).float()
            self._in_prompt[row].zero_().index_fill_(0, seen, True)
            self._counts[row].zero_().index_copy_(0, rest[0], rest[1].int())
            self._row_of_slot[slot : slot + 1].fill_(row)

        self._uploads.put(packed, write)

    def _grow(self) -> None:
        """Double the tables; row 0 is never given out."""
        old = len(self._counts)
        new = max(_FIRST_ROWS, old * 2)
        self._counts = _longer(self._counts, new)
        self._in_prompt = _longer(self._in_prompt, new)
        self._amounts = _longer(self._amounts, new)
        self._free += range(new - 1, max(old, 1) - 1, -1)

    def remove(self, slot: int) -> None:
        row = self.slots.pop(slot, None)
        if row is not None:
            self._free.append(row)
            self._uploads.do(lambda _: self._row_of_slot[slot : slot + 1].zero_())

    def move(self, source: int, target: int) -> None:
        self.remove(target)
        if source in self.slots:
            row = self.slots[source]
            moved(self.slots, source, target)

            def write(_: torch.Tensor) -> None:
                self._row_of_slot[source : source + 1].zero_()
                self._row_of_slot[target : target + 1].fill_(row)

            self._uploads.do(write)

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        index = self._asking(rows)
        if len(index) == len(rows.host_slots):
            return self._penalised(logits, self._row_of_slot[rows.slots])
        part = self._penalised(logits.index_select(0, index), self._row_of_slot[rows.slots[index]])
        return logits.index_copy_(0, index, part)

    def _penalised(self, logits: torch.Tensor, table_rows: torch.Tensor) -> torch.Tensor:
        counts = self._counts[table_rows]  # [r, V]
        repetition, presence, frequency = self._amounts[table_rows].unsqueeze(-1).unbind(1)  # [r, 1] each
        in_output = counts > 0
        factor = torch.where(self._in_prompt[table_rows] | in_output, repetition, 1.0)
        logits = torch.where(logits > 0, logits / factor, logits * factor)
        logits -= frequency * counts
        logits -= presence * in_output
        return logits

    def _asking(self, rows: SampleRows) -> torch.Tensor:
        """[r] int64: the rows with penalties; copied to the device when the rows changed, else kept."""
        key = [slot in self.slots for slot in rows.host_slots]
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, to_device(np.flatnonzero(key), self._uploads.device))
        return self._cached[1]

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        where = self._row_of_slot[rows.slots] * self._vocab_size + token_ids
        self._counts.view(-1).scatter_add_(0, where, torch.ones_like(where, dtype=torch.int32))


def _longer(table: torch.Tensor, rows: int) -> torch.Tensor:
    return torch.cat([table, table.new_zeros(rows - len(table), table.shape[1])])
