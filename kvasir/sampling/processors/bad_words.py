"""bad_words: masks the last token of a word when the tokens before it are the tail of the output.

The latest output tokens of each slot lie in a ring on the device, at position % ring length, written by the step that
sampled them: the host need not have seen them. Where the ring still holds an older request's tokens the comparison is
void, since a word matches only when there are enough outputs of this one.
"""

import numpy as np
import torch

from kvasir.messages import SlotRequest
from kvasir.sampling.params_check import MAX_BAD_WORD_TOKENS
from kvasir.sampling.processor import moved
from kvasir.sampling.rows import SampleRows
from kvasir.sampling.uploads import Uploads, to_device

RING = MAX_BAD_WORD_TOKENS


class BadWords:
    def __init__(self, max_num_seqs: int, uploads: Uploads):
        self.slots: dict[int, list[list[int]]] = {}
        self._max_num_seqs, self._uploads = max_num_seqs, uploads
        self._ring: torch.Tensor | None = None  # [M, RING] int64, made by the first request that needs it
        self._cached: tuple[list[int], tuple[torch.Tensor, ...]] | None = None

    def add(self, slot: int, request: SlotRequest) -> None:
        words = [word for word in request.bad_words_token_ids if word]
        if not words:
            return
        if self._ring is None:
            self._ring = torch.zeros(self._max_num_seqs, RING, dtype=torch.int64, device=self._uploads.device)
        self.slots[slot], self._cached = words, None
        total = len(request.token_ids)
        first = max(request.num_prompt_tokens, total - RING)
        if first < total:
            where = np.arange(first, total) % RING
            tail = np.asarray(request.token_ids[first:], dtype=np.int64)
            self._uploads.put(np.concatenate([where, tail]), lambda w: self._write(slot, w))

    def _write(self, slot: int, words: torch.Tensor) -> None:
        where, tail = words.view(2, -1)
        self._ring[slot].index_copy_(0, where, tail)

    def remove(self, slot: int) -> None:
        if self.slots.pop(slot, None) is not None:
            self._cached = None

    def move(self, source: int, target: int) -> None:
        if source in self.slots:
            self._uploads.do(lambda _: self._ring[target].copy_(self._ring[source]))
        moved(self.slots, source, target)
        self._cached = None

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        row, slot, last, length, prefixes = self._words(rows)
        back = torch.arange(1, prefixes.shape[1] + 1, device=logits.device)  # 1 = the token before the sampled one
        at = (rows.positions[row][:, None] - back) % RING  # [n, longest]
        same = (self._ring[slot[:, None], at] == prefixes) | (prefixes < 0)
        hit = same.all(dim=1) & (rows.num_output_tokens[row] >= length)
        # One word may end in the token of another: take the lower value of both, whatever their order.
        flat = logits.view(-1)
        where = row * logits.shape[1] + last
        flat.scatter_reduce_(0, where, torch.where(hit, float("-inf"), flat[where]), "amin", include_self=True)
        return logits

    def _words(self, rows: SampleRows) -> tuple[torch.Tensor, ...]:
        """Of each word: row, slot, last token, prefix length [n], and the prefix backwards [n, longest], -1 padded."""
        if self._cached is not None and self._cached[0] == rows.host_slots:
            return self._cached[1]
        words = [(r, s, word) for r, s in enumerate(rows.host_slots) for word in self.slots.get(s, ())]
        longest = max(len(word) for _, _, word in words) - 1
        table = np.full((len(words), 4 + longest), -1, dtype=np.int64)
        for i, (r, s, word) in enumerate(words):
            table[i, :4] = r, s, word[-1], len(word) - 1
            table[i, 4 : 3 + len(word)] = word[-2::-1]
        made = to_device(table, self._uploads.device)  # [n, 4 + longest]
        columns = (*made[:, :4].unbind(1), made[:, 4:])
        self._cached = (list(rows.host_slots), columns)
        return columns

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        self._ring[rows.slots, rows.positions % RING] = token_ids
