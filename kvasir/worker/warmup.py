"""Synthetic plans: warm-up and memory sizing run the very step that requests run, there is no dummy twin."""

from kvasir.messages import SamplingParams, SchedulerOutput, SlotRequest

SCRATCH_BLOCK = 0
"""Synthetic rows write their keys and values here; nothing reads it before a real request overwrites it."""


def even_shares(num_tokens: int, num_rows: int) -> list[int]:
    """The lengths of `num_rows` prompts, or of as many as there are tokens, that share `num_tokens` tokens."""
    num_rows = max(1, min(num_rows, num_tokens))
    share, rest = divmod(num_tokens, num_rows)
    return [share + (i < rest) for i in range(num_rows)]


def synthetic_plan(
    step_id: int, lens: list[int], max_model_len: int, block_size: int, computed: int = 0
) -> SchedulerOutput:
    """Prompts of `lens` tokens behind `computed` ones; all rows sample, all but one within limits.

    Both are less if the model takes less.
    """
    lens = [min(max_model_len - 1, n) for n in lens]
    computed = min(computed, max_model_len - 1 - max(lens))
    num_rows = len(lens)
    params = [SamplingParams(temperature=1.0), SamplingParams(temperature=1.0, top_k=20, top_p=0.9)]
    return SchedulerOutput(
        step_id=step_id,
        slots=list(range(num_rows)),
        num_scheduled_tokens=lens,
        num_computed_tokens=[computed] * num_rows,
        samples=[True] * num_rows,
        num_new_blocks=[0] * num_rows,
        new_requests=[
            SlotRequest(
                request_id=f"warm-up-{slot}",
                slot=slot,
                token_ids=[1] * (computed + n),
                num_prompt_tokens=computed + n,
                num_computed_tokens=computed,
                block_ids=[SCRATCH_BLOCK] * -(-(computed + n + 1) // block_size),
                params=params[slot > 0],
                seed=slot,
            )
            for slot, n in enumerate(lens)
        ],
    )


def synthetic_decode(step_id: int, before: SchedulerOutput) -> SchedulerOutput:
    """One more token for each row of `before`."""
    return SchedulerOutput(
        step_id=step_id,
        slots=before.slots,
        num_scheduled_tokens=[1] * before.num_rows,
        num_computed_tokens=[
            a + b for a, b in zip(before.num_computed_tokens, before.num_scheduled_tokens, strict=True)
        ],
        samples=[True] * before.num_rows,
        num_new_blocks=[0] * before.num_rows,
    )


def synthetic_end(step_id: int, before: SchedulerOutput) -> SchedulerOutput:
    """Frees every slot of `before`."""
    return SchedulerOutput(step_id=step_id, freed_slots=before.slots)
