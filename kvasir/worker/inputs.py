"""Plan + device state -> what the model reads in one step.

Rows are sorted so that decode rows (one token) come first, since attention backends treat them
apart; `InputBatch.order` leads back to the plan's rows.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kvasir.attention.backend import AttentionBatch
from kvasir.messages import SchedulerOutput
from kvasir.worker.states import RequestStates

FROM_DEVICE = -1
"""Marks an input id the host does not know: the slot's last sampled token."""


@dataclass(frozen=True)
class InputBatch:
    """One step, complete when constructed.

    Attributes:
        order: batch row -> plan row.
        slots: [R] int64 device, slot of each batch row; `host_slots` the same on the host.
        query_lens: [R] int64 device.
        input_ids, positions: [T] int64 device.
        sample_rows: batch rows that sample; `sample_slots` their slots on the device, [B] int64;
            `sample_tokens` the index of their last token in T, [B] int64.
        attention: the ragged shape for the attention backend.
    """

    order: list[int]
    slots: torch.Tensor
    host_slots: list[int]
    query_lens: torch.Tensor
    input_ids: torch.Tensor
    positions: torch.Tensor
    sample_rows: list[int]
    sample_slots: torch.Tensor
    sample_tokens: torch.Tensor
    attention: AttentionBatch


def build_inputs(plan: SchedulerOutput, states: RequestStates) -> InputBatch:
    """All host numbers travel in one copy; ids, positions and cache slots are made on the device."""
    lens = np.asarray(plan.num_scheduled_tokens, dtype=np.int64)
    order = np.argsort(lens > 1, kind="stable")
    lens = lens[order]
    slots = np.asarray(plan.slots, dtype=np.int64)[order]
    context = np.asarray(plan.num_computed_tokens, dtype=np.int64)[order]
    num_reqs, num_tokens = len(order), int(lens.sum())
    starts = np.zeros(num_reqs + 1, dtype=np.int64)
    np.cumsum(lens, out=starts[1:])
    row_of_token = np.repeat(np.arange(num_reqs), lens)  # [T]
    offset = np.arange(num_tokens) - starts[row_of_token]  # [T], place within the row
    host_ids = _host_ids(states, slots.tolist(), context.tolist(), lens.tolist(), num_tokens)
    sample_rows = np.flatnonzero(np.asarray(plan.samples, dtype=bool)[order])
    packed = states.to_device(
        np.concatenate([slots, lens, starts, sample_rows, starts[sample_rows + 1] - 1, row_of_token, offset, host_ids])
    )
    r, s, t = num_reqs, len(sample_rows), num_tokens
    slots_d, lens_d, starts_d, sample_rows_d, sample_tokens_d, row_d, offset_d, ids_d = packed.split(
        [r, r, r + 1, s, s, t, t, t]
    )
    context_d = states.num_computed[slots_d]  # [R]
    positions = context_d[row_d] + offset_d  # [T]
    input_ids = torch.where(ids_d == FROM_DEVICE, states.last_token[slots_d][row_d], ids_d)  # [T]
    max_seq_len = int((context + lens).max())
    columns = -(-max_seq_len // states.block_size)
    table = states.block_table[slots_d, :columns]  # [R, max_blocks]
    block = table[row_d, positions // states.block_size].long()  # [T]
    attention = AttentionBatch(
        query_start_loc=starts_d.to(torch.int32),
        seq_lens=(context_d + lens_d).to(torch.int32),
        block_table=table,
        slot_mapping=block * states.block_size + positions % states.block_size,  # [T]
        num_reqs=num_reqs,
        num_tokens=num_tokens,
        num_decodes=int((lens == 1).sum()),
        max_query_len=int(lens.max()),
        max_seq_len=max_seq_len,
        query_lens=lens.tolist(),
        context_lens=context.tolist(),
    )
    return InputBatch(
        order=order.tolist(),
        slots=slots_d,
        host_slots=slots.tolist(),
        query_lens=lens_d,
        input_ids=input_ids,
        positions=positions,
        sample_rows=sample_rows.tolist(),
        sample_slots=slots_d[sample_rows_d],
        sample_tokens=sample_tokens_d,
        attention=attention,
    )


def _host_ids(
    states: RequestStates, slots: list[int], context: list[int], lens: list[int], num_tokens: int
) -> np.ndarray:
    """[T] ids the host knows; FROM_DEVICE for the others."""
    ids = np.full(num_tokens, FROM_DEVICE, dtype=np.int64)
    at = 0
    for slot, first, count in zip(slots, context, lens, strict=True):
        known = states.slot(slot).token_ids
        if first < len(known):
            chunk = known[first : first + count]
            ids[at : at + len(chunk)] = chunk
        at += count
    return ids
