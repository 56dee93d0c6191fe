"""What a model reads in one step, made on the device from the request slots' state.

M slots, R rows of the step, T tokens, N blocks of S tokens. A row names a slot; the last slot (M - 1) is spare: rows
that only pad a step name it, compute nothing and write nowhere.
"""

from dataclasses import dataclass

import torch

from kvasir.ops.dispatch import implementation


@dataclass(frozen=True)
class SlotTables:
    """The state of all slots, on the device.

    Attributes:
        last_token: [M] int64, the newest token, whose KV is not in the cache yet.
        num_computed: [M] int64, tokens whose KV is in the cache.
        block_table: [M, max_blocks] int32.
        block_size: S.
    """

    last_token: torch.Tensor
    num_computed: torch.Tensor
    block_table: torch.Tensor
    block_size: int


@dataclass(frozen=True)
class StepInputs:
    """Tensors to be filled.

    Attributes:
        input_ids, positions, slot_mapping: [T] int64; slot_mapping is block * S + offset, -1 = nowhere.
        seq_lens: [R] int32, cached + new tokens of each row, 0 for padding.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    slot_mapping: torch.Tensor
    seq_lens: torch.Tensor


def decode_inputs(
    slots: torch.Tensor,  # [R] int64
    tables: SlotTables,
    out: StepInputs,  # T = R
) -> None:
    """Each row computes its newest token: fills `out` and counts that token as computed."""
    implementation("decode_inputs", slots.device)(slots, tables, out)


def ragged_inputs(
    slots: torch.Tensor,  # [R] int64
    starts: torch.Tensor,  # [R + 1] int32, cumulative lengths; tokens from starts[R] on are padding
    host_ids: torch.Tensor,  # [T] int64, ids the host knows; -1 = the slot's newest token
    tables: SlotTables,
    out: StepInputs,
) -> None:
    """Row r computes starts[r + 1] - starts[r] tokens after those computed. `num_computed` is left as it is."""
    implementation("ragged_inputs", slots.device)(slots, starts, host_ids, tables, out)
