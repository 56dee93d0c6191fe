"""RequestStates: what the device remembers of each slot between steps.

A plan sends only the difference; tokens sampled on the device are appended here by the device, so
step N + 1 can be launched before the host has seen the tokens of step N.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kvasir.messages import SamplingParams, SchedulerOutput, SlotRequest
from kvasir.ops import SlotTables
from kvasir.sampling.uploads import Uploads


@dataclass(slots=True)
class HostSlot:
    """The host's side of a slot.

    Attributes:
        token_ids: [L] int64, prompt and those outputs that were known when the slot was filled.
            Tokens at positions >= L exist on the device only (as `last_token`).
        num_blocks: filled columns of the slot's block table row.
    """

    token_ids: np.ndarray
    num_prompt_tokens: int
    num_blocks: int
    params: SamplingParams


class RequestStates:
    """Structure of arrays, one row per slot, and one spare row: rows that pad a step name it.

    Args:
        uploads: carries what the host writes; nothing is on the device before its next `flush`.

    Attributes:
        tables: the device's side.
        spare: the slot that holds nothing.
        with_prompt_logprobs: slots whose requests asked for them.
        entries: requests that have entered a slot so far: while it stays, a slot that is taken is the same request's.
    """

    def __init__(self, max_num_seqs: int, max_model_len: int, block_size: int, uploads: Uploads):
        self._uploads = uploads
        self.max_blocks = -(-max_model_len // block_size)
        self.spare = max_num_seqs
        rows, device = max_num_seqs + 1, uploads.device
        self.tables = SlotTables(
            last_token=torch.zeros(rows, dtype=torch.int64, device=device),
            num_computed=torch.zeros(rows, dtype=torch.int64, device=device),
            block_table=torch.zeros(rows, self.max_blocks, dtype=torch.int32, device=device),
            block_size=block_size,
        )
        self._host: list[HostSlot | None] = [None] * rows
        self.with_prompt_logprobs: set[int] = set()  # slots
        self.entries = 0
        self._blocks = np.full(
            (rows, self.max_blocks), -1, dtype=np.int32
        )  # the block table as the device will have it

    def apply(self, plan: SchedulerOutput) -> list[SlotRequest]:
        """Brings the rows up to date with a plan; returns the requests that entered a slot."""
        for slot in plan.freed_slots:
            self._host[slot] = None
            self.with_prompt_logprobs.discard(slot)
        cells: list[int] = []  # of the flattened block table
        blocks: list[int] = []
        self.entries += len(plan.new_requests)
        for request in plan.new_requests:
            self._host[request.slot] = HostSlot(
                np.asarray(request.token_ids, dtype=np.int64),
                request.num_prompt_tokens,
                len(request.block_ids),
                request.params,
            )
            wants = request.params.prompt_logprobs is not None
            (self.with_prompt_logprobs.add if wants else self.with_prompt_logprobs.discard)(request.slot)
            first = request.slot * self.max_blocks
            cells.extend(range(first, first + len(request.block_ids)))
            blocks += request.block_ids
        if plan.new_block_ids:
            self._append_blocks(plan, cells)
            blocks += plan.new_block_ids
        self._put(cells, blocks, plan.new_requests)
        return plan.new_requests

    def _append_blocks(self, plan: SchedulerOutput, cells: list[int]) -> None:
        for slot, count in zip(plan.slots, plan.num_new_blocks, strict=True):
            if count:
                host = self.slot(slot)
                first = slot * self.max_blocks + host.num_blocks
                cells.extend(range(first, first + count))
                host.num_blocks += count

    def _put(self, cells: list[int], blocks: list[int], new: list[SlotRequest]) -> None:
        tables = self.tables
        if cells:
            self._blocks.reshape(-1)[cells] = blocks

            def write_blocks(words: torch.Tensor) -> None:
                where, values = words.view(2, -1)
                tables.block_table.view(-1).index_copy_(0, where, values.int())

            self._uploads.put(np.array([cells, blocks], dtype=np.int64), write_blocks)
        if new:

            def write_rows(words: torch.Tensor) -> None:
                slots, computed, last = words.view(3, -1)
                tables.num_computed.index_copy_(0, slots, computed)
                tables.last_token.index_copy_(0, slots, last)

            rows = [[r.slot for r in new], [r.num_computed_tokens for r in new], [r.token_ids[-1] for r in new]]
            self._uploads.put(np.array(rows, dtype=np.int64), write_rows)

    def num_shared_blocks(self, slots: np.ndarray) -> int:
        """Blocks that all these slots begin with."""
        first = self._blocks[slots[0]]
        if not (self._blocks[slots, 0] == first[0]).all():  # the usual case, at little cost
            return 0
        least = min(self.slot(slot).num_blocks for slot in slots.tolist())
        same = (self._blocks[slots, :least] == first[:least]).all(axis=0)
        return least if same.all() else int(same.argmin())

    def slot(self, slot: int) -> HostSlot:
        host = self._host[slot]
        if host is None:
            raise RuntimeError(f"plan names slot {slot}, which holds no request")
        return host
