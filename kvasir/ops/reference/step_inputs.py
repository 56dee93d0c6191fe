"""Step inputs in plain torch."""

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from kvasir.ops.step_inputs import SlotTables, StepInputs


def decode_inputs(slots: torch.Tensor, tables: "SlotTables", out: "StepInputs") -> None:
    lengths = (slots != tables.num_computed.shape[0] - 1).long()  # padding rows have no token
    positions = tables.num_computed[slots]
    _fill(slots, positions, lengths.bool(), tables.last_token[slots], tables, out)
    out.seq_lens.copy_(positions + lengths)
    tables.num_computed.index_copy_(0, slots, positions + lengths)


def ragged_inputs(
    slots: torch.Tensor, starts: torch.Tensor, host_ids: torch.Tensor, tables: "SlotTables", out: "StepInputs"
) -> None:
    lengths = starts.diff()  # [R]
    tokens = torch.arange(host_ids.shape[0], device=slots.device)
    row = torch.searchsorted(starts, tokens.to(starts.dtype), right=True) - 1  # [T]
    real = row < slots.shape[0]
    row = row.clamp(max=slots.shape[0] - 1)
    slot = slots[row]
    positions = tables.num_computed[slot] + tokens - starts[row]
    ids = torch.where(host_ids < 0, tables.last_token[slot], host_ids)
    _fill(slot, positions, real, ids, tables, out)
    out.seq_lens.copy_(tables.num_computed[slots] + lengths)


def _fill(
    slot: torch.Tensor,  # [T]
    positions: torch.Tensor,  # [T]
    real: torch.Tensor,  # [T] bool
    ids: torch.Tensor,  # [T]
    tables: "SlotTables",
    out: "StepInputs",
) -> None:
    positions = positions.where(real, 0)
    block = tables.block_table[slot, positions // tables.block_size].long()
    out.input_ids.copy_(ids.where(real, 0))
    out.positions.copy_(positions)
    out.slot_mapping.copy_((block * tables.block_size + positions % tables.block_size).where(real, -1))
