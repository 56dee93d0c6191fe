"""Step inputs in Triton: one launch a step."""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from kvasir.ops.triton import pdl
from kvasir.ops.triton.pdl import wait_for_predecessor

if TYPE_CHECKING:
    from kvasir.ops.step_inputs import SlotTables, StepInputs

_BLOCK = 256


@triton.jit
def _cache_cell(table_ptr, stride_table, slot, position, real, S: tl.constexpr):
    block = tl.load(table_ptr + slot * stride_table + position // S, mask=real, other=0).to(tl.int64)
    return tl.where(real, block * S + position % S, -1)


@triton.jit(do_not_specialize=["num_rows", "spare", "stride_table"])
def _decode_inputs_kernel(
    slots_ptr, last_token_ptr, num_computed_ptr, table_ptr,
    input_ids_ptr, positions_ptr, slot_mapping_ptr, seq_lens_ptr,
    num_rows, spare, stride_table,
    S: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_predecessor(PDL)
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = row < num_rows
    slot = tl.load(slots_ptr + row, mask=inside, other=0)
    real = inside & (slot != spare)
    position = tl.load(num_computed_ptr + slot, mask=real, other=0)
    token = tl.load(last_token_ptr + slot, mask=real, other=0)
    tl.store(input_ids_ptr + row, token, mask=inside)
    tl.store(positions_ptr + row, position, mask=inside)
    tl.store(slot_mapping_ptr + row, _cache_cell(table_ptr, stride_table, slot, position, real, S), mask=inside)
    tl.store(seq_lens_ptr + row, (position + real.to(tl.int64)).to(tl.int32), mask=inside)
    tl.store(num_computed_ptr + slot, position + 1, mask=real)  # a slot has one row, so nobody else reads it


@triton.jit(do_not_specialize=["num_rows", "num_tokens", "steps", "stride_table"])
def _ragged_inputs_kernel(
    slots_ptr, starts_ptr, host_ids_ptr, last_token_ptr, num_computed_ptr, table_ptr,
    input_ids_ptr, positions_ptr, slot_mapping_ptr, seq_lens_ptr,
    num_rows, num_tokens, steps, stride_table,
    S: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_predecessor(PDL)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    is_row = index < num_rows
    own_slot = tl.load(slots_ptr + index, mask=is_row, other=0)
    length = tl.load(starts_ptr + index + 1, mask=is_row, other=0) - tl.load(starts_ptr + index, mask=is_row, other=0)
    seq_len = tl.load(num_computed_ptr + own_slot, mask=is_row, other=0) + length
    tl.store(seq_lens_ptr + index, seq_len.to(tl.int32), mask=is_row)

    is_token = index < num_tokens
    real = index < tl.load(starts_ptr + num_rows)
    low = tl.zeros([BLOCK], tl.int32)  # the last row that starts at or before the token
    high = low + (num_rows - 1)
    for _ in range(0, steps):
        middle = (low + high + 1) // 2
        right = tl.load(starts_ptr + middle) <= index
        low = tl.where(right, middle, low)
        high = tl.where(right, high, tl.maximum(middle - 1, low))
    slot = tl.load(slots_ptr + low)
    position = tl.load(num_computed_ptr + slot) + index - tl.load(starts_ptr + low)
    position = tl.where(real, position, 0)
    token = tl.load(host_ids_ptr + index, mask=is_token & real, other=0)
    token = tl.where(token < 0, tl.load(last_token_ptr + slot), token)
    tl.store(input_ids_ptr + index, token, mask=is_token)
    tl.store(positions_ptr + index, position, mask=is_token)
    cell = _cache_cell(table_ptr, stride_table, slot, position, real & is_token, S)
    tl.store(slot_mapping_ptr + index, cell, mask=is_token)


def decode_inputs(slots: torch.Tensor, tables: "SlotTables", out: "StepInputs") -> None:
    rows = slots.shape[0]
    _decode_inputs_kernel[(triton.cdiv(rows, _BLOCK),)](
        slots, tables.last_token, tables.num_computed, tables.block_table,
        out.input_ids, out.positions, out.slot_mapping, out.seq_lens,
        rows, tables.num_computed.shape[0] - 1, tables.block_table.stride(0),
        S=tables.block_size, BLOCK=_BLOCK, num_warps=4, **pdl.options(slots.device),
    )  # fmt: skip


def ragged_inputs(
    slots: torch.Tensor, starts: torch.Tensor, host_ids: torch.Tensor, tables: "SlotTables", out: "StepInputs"
) -> None:
    rows, tokens = slots.shape[0], host_ids.shape[0]
    _ragged_inputs_kernel[(triton.cdiv(max(rows, tokens), _BLOCK),)](
        slots, starts, host_ids, tables.last_token, tables.num_computed, tables.block_table,
        out.input_ids, out.positions, out.slot_mapping, out.seq_lens,
        rows, tokens, rows.bit_length(), tables.block_table.stride(0),
        S=tables.block_size, BLOCK=_BLOCK, num_warps=4, **pdl.options(slots.device),
    )  # fmt: skip
