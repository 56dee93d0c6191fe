"""Plan + device state -> what the model reads, by both passes, against a plain account in Python."""

import random
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from kvasir.attention.backend import AttentionBatch
from kvasir.attention.forward_context import get_forward_context
from kvasir.attention.reference import ReferenceBuilder
from kvasir.compilation import CudagraphDispatcher, CudagraphMode
from kvasir.messages import SamplingParams, SchedulerOutput, SlotRequest
from kvasir.sampling.uploads import Uploads
from kvasir.worker import forward
from kvasir.worker.forward import DecodePass, PassParts, RaggedPass
from kvasir.worker.inputs import StepLayout
from kvasir.worker.states import RequestStates

BLOCK = 4
SLOTS = 16
CPU = torch.device("cpu")


class SeeingModel:
    """Keeps what it was shown."""

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        batch: AttentionBatch = get_forward_context().metadata
        self.ids, self.positions, self.cells = input_ids.tolist(), positions.tolist(), batch.slot_mapping.tolist()
        self.seq_lens, self.starts = batch.seq_lens.tolist(), batch.query_start_loc.tolist()
        self.tables = batch.block_table[batch.table_rows].tolist()
        self.last = None if last is None else last.tolist()
        return torch.zeros(len(self.ids) if last is None else len(last), 2)

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden


@dataclass
class Account:
    """What is true of each slot."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    blocks: dict[int, list[int]] = field(default_factory=dict)
    computed: dict[int, int] = field(default_factory=dict)


def make(dispatcher: CudagraphDispatcher) -> tuple[RequestStates, PassParts]:
    uploads = Uploads(CPU)
    states = RequestStates(SLOTS, 64, BLOCK, uploads)
    return states, PassParts(SeeingModel(), states, ReferenceBuilder(), [], uploads, dispatcher, 512)


def slot_request(slot: int, tokens: list[int], computed: int, blocks: list[int]) -> SlotRequest:
    return SlotRequest(f"r{slot}", slot, tokens, len(tokens), computed, blocks, SamplingParams(), 0)


def next_plan(
    step: int, rng: random.Random, account: Account, free: list[int], *, only_decodes: bool
) -> SchedulerOutput:
    freed = [s for s in list(account.tokens) if len(account.tokens[s]) > 50 or rng.random() < 0.1]
    for slot in freed:
        del account.tokens[slot], account.blocks[slot], account.computed[slot]
    plan = SchedulerOutput(step, freed_slots=freed)
    for slot in rng.sample(range(SLOTS), 3):
        if slot not in account.tokens:
            tokens = account.tokens[slot] = [rng.randrange(1000) for _ in range(rng.randint(1, 30))]
            computed = account.computed[slot] = rng.randrange(len(tokens)) // BLOCK * BLOCK
            account.blocks[slot] = [free.pop() for _ in range(computed // BLOCK)]
            plan.new_requests.append(slot_request(slot, list(tokens), computed, account.blocks[slot]))
    new_slots = {r.slot: r for r in plan.new_requests}
    for slot in rng.sample(list(account.tokens), len(account.tokens)):
        todo = len(account.tokens[slot]) - account.computed[slot]
        if only_decodes and todo > 1:
            continue
        n = rng.randint(1, todo)
        need = -(-(account.computed[slot] + n) // BLOCK) - len(account.blocks[slot])
        fresh = [free.pop() for _ in range(need)]
        account.blocks[slot] += fresh
        if slot in new_slots:
            new_slots[slot].block_ids = list(account.blocks[slot])
            fresh = []
        plan.num_new_blocks.append(len(fresh))
        plan.new_block_ids += fresh
        plan.slots.append(slot)
        plan.num_scheduled_tokens.append(n)
        plan.num_computed_tokens.append(account.computed[slot])
        plan.samples.append(n == todo)
    return plan


def check_seen(seen: SeeingModel, layout: StepLayout, account: Account) -> None:
    at = 0
    for row, slot in enumerate(layout.host_slots):
        count, first = int(layout.lens[row]), account.computed[slot]
        span = slice(at, at + count)
        at += count
        positions = list(range(first, first + count))
        assert seen.ids[span] == account.tokens[slot][first : first + count]
        assert seen.positions[span] == positions
        blocks = account.blocks[slot]
        assert seen.cells[span] == [blocks[p // BLOCK] * BLOCK + p % BLOCK for p in positions]
        assert seen.seq_lens[row] == first + count
        assert seen.tables[row][: len(blocks)] == blocks
        assert seen.starts[row + 1] - seen.starts[row] == count
    assert seen.cells[at:] == [-1] * (len(seen.cells) - at), "padding writes nowhere"
    assert seen.seq_lens[layout.num_rows :] == [0] * (len(seen.seq_lens) - layout.num_rows)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_random_steps_against_a_plain_account(seed: int, captured: bool) -> None:
    """`captured`: the shapes of captured steps, with their padding; on a CPU they run in the open."""
    rng = random.Random(seed)
    mode = CudagraphMode.FULL if captured else CudagraphMode.NONE
    states, parts = make(CudagraphDispatcher(mode, [4, 12], [32, 64], SLOTS))
    ragged, decode = RaggedPass(parts, None), DecodePass(parts, None)
    account, free = Account(), list(range(4000))
    rng.shuffle(free)
    uniform = 0
    for step in range(60):
        plan = next_plan(step, rng, account, free, only_decodes=step % 3 == 2)
        states.apply(plan)
        if not plan.num_rows:
            parts.uploads.flush()
            continue
        layout = StepLayout.of(plan)
        assert sorted(layout.order.tolist()) == list(range(plan.num_rows))
        assert all(layout.lens[: layout.num_decodes] == 1) and all(layout.lens[layout.num_decodes :] > 1)
        uniform += layout.is_uniform_decode
        run = decode if layout.is_uniform_decode else ragged
        run.stage(layout)
        parts.uploads.flush()
        done = run.run()
        check_seen(parts.model, layout, account)
        batch = done.batch
        ends = np.cumsum(layout.lens)
        assert batch.sample_tokens.tolist() == [int(ends[r]) - 1 for r in layout.sample_rows]
        assert batch.sample_slots.tolist() == layout.slots[layout.sample_rows].tolist()
        if done.only_sampled:
            assert not captured and parts.model.last == batch.sample_tokens.tolist()
            assert done.hidden.shape[0] == len(layout.sample_rows)
        else:
            assert done.hidden.shape[0] == layout.num_tokens
        for row, slot in enumerate(layout.host_slots):
            account.computed[slot] += int(layout.lens[row])
            assert int(states.tables.num_computed[slot]) == account.computed[slot]
            if row in layout.sample_rows:  # what the runner does: the token is known to the device only
                token = rng.randrange(1000)
                states.tables.last_token[slot] = token
                account.tokens[slot].append(token)
    assert uniform > 5
    assert int(states.tables.num_computed[states.spare]) == 0


def test_an_unchanged_list_of_slots_is_not_sent_again() -> None:
    states, parts = make(CudagraphDispatcher(CudagraphMode.FULL, [4], [], SLOTS))
    decode = DecodePass(parts, None)
    plan = SchedulerOutput(0, [3, 1], [1, 1], [0, 0], [True, True], [0, 0])
    plan.new_requests = [slot_request(3, [5], 0, [7]), slot_request(1, [6], 0, [8])]
    sent: list[int] = []
    put = parts.uploads.put
    parts.uploads.put = lambda values, use: (sent.append(1), put(values, use))
    states.apply(plan)
    for step in range(3):
        if step:
            states.apply(SchedulerOutput(step))
        before = len(sent)
        decode.stage(StepLayout.of(plan))
        parts.uploads.flush()
        decode.run()
        assert len(sent) - before == (1 if step == 0 else 0)
        assert decode.slots[:4].tolist() == [3, 1, SLOTS, SLOTS]


def test_a_plan_that_names_an_empty_slot_is_a_bug_with_a_name() -> None:
    _, parts = make(CudagraphDispatcher(CudagraphMode.NONE, []))
    plan = SchedulerOutput(0, [2], [1], [0], [True], [0])
    with pytest.raises(RuntimeError, match="slot 2"):
        RaggedPass(parts, None).stage(StepLayout.of(plan))


def shared_blocks(tables: list[list[int]]) -> int:
    states, _ = make(CudagraphDispatcher(CudagraphMode.NONE, []))
    plan = SchedulerOutput(0)
    plan.new_requests = [slot_request(slot, [1] * 40, 0, blocks) for slot, blocks in enumerate(tables)]
    states.apply(plan)
    return states.num_shared_blocks(np.arange(len(tables)))


def test_blocks_that_all_rows_begin_with() -> None:
    assert shared_blocks([[1, 2, 3], [1, 2, 4], [1, 2, 3, 9]]) == 2
    assert shared_blocks([[1, 2], [1, 2, 4]]) == 2
    assert shared_blocks([[1, 2, 3], [5, 2, 3]]) == 0
    assert shared_blocks([[7, 8]]) == 2
    assert shared_blocks([[7, 8, 9], [7, 8, 9]]) == 3


def test_a_shared_prefix_is_told_to_the_device_until_the_rows_change() -> None:
    _, parts = make(CudagraphDispatcher(CudagraphMode.FULL, [8, 16], [], 0))
    parts = replace(parts, states=RequestStates(SLOTS, 4096, BLOCK, parts.uploads))
    decode, prefix = DecodePass(parts, None), list(range(forward.MIN_SHARED_TOKENS // BLOCK))
    count = forward.MIN_SHARED_ROWS
    computed = forward.MIN_SHARED_TOKENS + 1
    plan = SchedulerOutput(0, list(range(count)), [1] * count, [computed] * count, [True] * count, [0] * count)
    plan.new_requests = [
        slot_request(slot, [1] * (computed + 1), computed, [*prefix, 2000 + slot]) for slot in range(count)
    ]
    parts.states.apply(plan)
    decode.stage(StepLayout.of(plan))
    parts.uploads.flush()
    assert decode.run().missing == forward.DecodeKey(8, shared=True)
    assert decode._shared_len.tolist() == [forward.MIN_SHARED_TOKENS]
    others = SchedulerOutput(1, plan.slots, [1] * count, [3] * count, [True] * count, [0] * count)
    others.freed_slots = plan.slots
    others.new_requests = [slot_request(slot, [1] * 4, 3, [3000 + slot]) for slot in range(count)]
    parts.states.apply(others)
    decode.stage(StepLayout.of(others))
    parts.uploads.flush()
    assert decode.run().missing == forward.DecodeKey(8, shared=False), "other requests in the same slots"
    plan.freed_slots = plan.slots
    parts.states.apply(plan)
    decode.stage(StepLayout.of(plan))
    assert decode.run().missing == forward.DecodeKey(8, shared=True)
    fewer = SchedulerOutput(1, [0, 1], [1, 1], [computed] * 2, [True] * 2, [0] * 2)
    decode.stage(StepLayout.of(fewer))
    parts.uploads.flush()
    assert decode.run().missing == forward.DecodeKey(8, shared=False), "too few rows to be worth it"


def test_a_larger_graph_serves_until_the_right_one_pays() -> None:
    _, parts = make(CudagraphDispatcher(CudagraphMode.FULL, [1, 4, 8, 12, 16], [], 0))
    decode = DecodePass(parts, None)
    decode.graphs._graphs = {forward.DecodeKey(n): None for n in (4, 12)}

    def choose(rows: int) -> tuple[int, int | None]:
        layout = StepLayout.of(SchedulerOutput(0, list(range(rows)), [1] * rows, [3] * rows, [True] * rows, [0] * rows))
        key, missing = decode._choose(layout)
        return key.rows, missing.rows if missing else None

    assert choose(4) == (4, None)
    assert choose(3) == (4, None), "the right size is captured"
    assert choose(1) == (1, 1), "four is more than half as much again: run in the open, then capture"
    assert choose(16) == (16, 16), "nothing is larger"
    seen = [choose(8) for _ in range(forward.USES_BEFORE_CAPTURE)]
    assert seen[:-1] == [(12, None)] * (forward.USES_BEFORE_CAPTURE - 1)
    assert seen[-1] == (12, 8)
