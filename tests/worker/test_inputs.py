"""Plan + device state -> model inputs, against a plain account in Python."""

import random

import numpy as np
import pytest
import torch

from kvasir.messages import SamplingParams, SchedulerOutput, SlotRequest
from kvasir.worker.inputs import build_inputs
from kvasir.worker.states import RequestStates

BLOCK = 4


def slot_request(slot: int, tokens: list[int], computed: int, blocks: list[int]) -> SlotRequest:
    return SlotRequest(f"r{slot}", slot, tokens, len(tokens), computed, blocks, SamplingParams(), 0)


@pytest.mark.parametrize("seed", range(5))
def test_random_steps_against_a_plain_account(seed: int) -> None:
    rng = random.Random(seed)
    states = RequestStates(16, 64, BLOCK, torch.device("cpu"))
    free = list(range(400))
    rng.shuffle(free)
    tokens: dict[int, list[int]] = {}
    blocks: dict[int, list[int]] = {}
    known: dict[int, int] = {}
    computed: dict[int, int] = {}
    for step in range(30):
        freed = [s for s in list(tokens) if len(tokens[s]) > 50 or rng.random() < 0.1]
        for slot in freed:
            del tokens[slot], blocks[slot], known[slot], computed[slot]
        plan = SchedulerOutput(step, freed_slots=freed)
        for slot in rng.sample(range(16), 3):
            if slot not in tokens:
                tokens[slot] = [rng.randrange(1000) for _ in range(rng.randint(1, 30))]
                known[slot] = len(tokens[slot])
                computed[slot] = rng.randrange(len(tokens[slot])) // BLOCK * BLOCK
                blocks[slot] = [free.pop() for _ in range(computed[slot] // BLOCK)]
                plan.new_requests.append(slot_request(slot, list(tokens[slot]), computed[slot], blocks[slot]))
        want_ids: dict[int, list[int]] = {}
        new_slots = {r.slot for r in plan.new_requests}
        for slot in rng.sample(list(tokens), len(tokens)):
            todo = len(tokens[slot]) - computed[slot]
            n = rng.randint(1, todo)
            need = -(-(computed[slot] + n) // BLOCK) - len(blocks[slot])
            fresh = [free.pop() for _ in range(need)]
            blocks[slot] += fresh
            if slot in new_slots:
                next(r for r in plan.new_requests if r.slot == slot).block_ids = list(blocks[slot])
                plan.num_new_blocks.append(0)
            else:
                plan.num_new_blocks.append(len(fresh))
                plan.new_block_ids += fresh
            plan.slots.append(slot)
            plan.num_scheduled_tokens.append(n)
            plan.num_computed_tokens.append(computed[slot])
            plan.samples.append(n == todo)
            want_ids[slot] = tokens[slot][computed[slot] : computed[slot] + n]
        states.apply(plan)
        batch = build_inputs(plan, states)
        lens = batch.attention.query_lens
        assert sorted(batch.order) == list(range(plan.num_rows))
        assert all(n == 1 for n in lens[: batch.attention.num_decodes])
        assert all(n > 1 for n in lens[batch.attention.num_decodes :])
        at = 0
        for row, slot in enumerate(batch.host_slots):
            span = slice(at, at + lens[row])
            at += lens[row]
            positions = list(range(computed[slot], computed[slot] + lens[row]))
            assert batch.input_ids[span].tolist() == want_ids[slot]
            assert batch.positions[span].tolist() == positions
            cells = [blocks[slot][p // BLOCK] * BLOCK + p % BLOCK for p in positions]
            assert batch.attention.slot_mapping[span].tolist() == cells
            assert int(batch.attention.seq_lens[row]) == computed[slot] + lens[row]
            assert batch.attention.block_table[row, : len(blocks[slot])].tolist() == blocks[slot]
        ends = np.cumsum(lens)
        assert batch.sample_tokens.tolist() == [int(ends[r]) - 1 for r in batch.sample_rows]
        assert [plan.samples[batch.order[r]] for r in batch.sample_rows] == [True] * len(batch.sample_rows)
        # What the runner does after a step: count what was computed, append what was sampled on the device only.
        states.num_computed[batch.slots] += batch.query_lens
        for row, slot in enumerate(batch.host_slots):
            computed[slot] += lens[row]
            if row in batch.sample_rows:
                token = rng.randrange(1000)
                states.last_token[slot] = token
                tokens[slot].append(token)


def test_a_plan_that_names_an_empty_slot_is_a_bug_with_a_name() -> None:
    states = RequestStates(4, 64, BLOCK, torch.device("cpu"))
    plan = SchedulerOutput(0, [2], [1], [0], [True], [0])
    with pytest.raises(RuntimeError, match="slot 2"):
        build_inputs(plan, states)
