"""RequestStates: what the device remembers of each slot between steps.

A plan sends only the difference; tokens sampled on the device are appended here by the device, so
step N + 1 can be launched before the host has seen the tokens of step N.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from kvasir.messages import SamplingParams, SchedulerOutput, SlotRequest


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


@dataclass(slots=True)
class BlockWrites:
    """Block table cells to write: table[rows[i], columns[i]] = blocks[i]."""

    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)

    def add(self, slot: int, first_column: int, block_ids: list[int]) -> None:
        self.rows.extend([slot] * len(block_ids))
        self.columns.extend(range(first_column, first_column + len(block_ids)))
        self.blocks.extend(block_ids)


class RequestStates:
    """Structure of arrays, one row per slot (plus one spare row that padding may write to).

    Device tensors:
        last_token: [R + 1] int64, the token sampled last.
        num_computed: [R + 1] int64, tokens whose KV is in the cache.
        block_table: [R + 1, max_blocks] int32.
    """

    def __init__(self, max_num_seqs: int, max_model_len: int, block_size: int, device: torch.device):
        self.device = device
        self.block_size = block_size
        self.max_blocks = -(-max_model_len // block_size)
        rows = max_num_seqs + 1
        self.last_token = torch.zeros(rows, dtype=torch.int64, device=device)  # [R + 1]
        self.num_computed = torch.zeros(rows, dtype=torch.int64, device=device)  # [R + 1]
        self.block_table = torch.zeros(rows, self.max_blocks, dtype=torch.int32, device=device)  # [R + 1, max_blocks]
        self.host: list[HostSlot | None] = [None] * rows

    def apply(self, plan: SchedulerOutput) -> list[SlotRequest]:
        """Brings the rows up to date with a plan; returns the requests that entered a slot."""
        for slot in plan.freed_slots:
            self.host[slot] = None
        writes = BlockWrites()
        for request in plan.new_requests:
            self.host[request.slot] = HostSlot(
                np.asarray(request.token_ids, dtype=np.int64),
                request.num_prompt_tokens,
                len(request.block_ids),
                request.params,
            )
            writes.add(request.slot, 0, request.block_ids)
        start = 0
        for slot, count in zip(plan.slots, plan.num_new_blocks, strict=True):
            if count:
                host = self.slot(slot)
                writes.add(slot, host.num_blocks, plan.new_block_ids[start : start + count])
                host.num_blocks += count
                start += count
        self._write(writes, plan.new_requests)
        return plan.new_requests

    def _write(self, writes: BlockWrites, new: list[SlotRequest]) -> None:
        if writes.rows:
            cells = self.to_device(np.array([writes.rows, writes.columns, writes.blocks], dtype=np.int64))  # [3, n]
            self.block_table[cells[0], cells[1]] = cells[2].to(torch.int32)
        if new:
            rows = self.to_device(np.array([[r.slot, r.num_computed_tokens] for r in new], dtype=np.int64))  # [n, 2]
            self.num_computed[rows[:, 0]] = rows[:, 1]

    def slot(self, slot: int) -> HostSlot:
        host = self.host[slot]
        if host is None:
            raise RuntimeError(f"plan names slot {slot}, which holds no request")
        return host

    def to_device(self, array: np.ndarray) -> torch.Tensor:
        """One host -> device copy; through pinned memory, so that it does not wait for the device."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)
