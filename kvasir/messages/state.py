"""EngineState: what a core looks like at one moment, for people who watch it. Made only when somebody asks."""

import msgspec

MAX_LISTED = 256
"""Requests of each kind that are listed; the counts beside the lists are of all of them."""

MAX_MAP_CELLS = 4096
"""Cells of the block map; in a larger cache a cell stands for several blocks."""


class LiveRequest(msgspec.Struct):
    """A request that has not finished. Numbers only: no prompt and no answer is in here.

    Attributes:
        state: waiting, running or preempted.
        num_computed_tokens: tokens whose keys and values are in the cache, or will be when the steps in flight end.
        num_cached_tokens: those of the prompt that were found in the prefix cache.
    """

    request_id: str
    state: str
    arrival_time: float
    num_prompt_tokens: int
    num_output_tokens: int
    num_computed_tokens: int
    num_cached_tokens: int
    num_blocks: int


class EngineState(msgspec.Struct):
    """Counts are exact; lists are cut at MAX_LISTED.

    Attributes:
        num_steps, num_step_tokens, step_s: sums over the steps this core has done.
        num_cached_blocks: blocks whose content can be found again, in use or not.
        block_map: one digit for each `blocks_per_cell` blocks: 0 free and empty, 1 free but findable, 2 used by a
            request, 3 shared by several; the largest of the cell's blocks.
    """

    epoch: int
    num_running: int
    num_waiting: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_queued_requests: int
    num_steps: int
    num_step_tokens: int
    step_s: float
    block_size: int
    num_blocks: int
    num_used_blocks: int
    num_cached_blocks: int
    blocks_per_cell: int
    block_map: str
    running: list[LiveRequest]
    waiting: list[LiveRequest]
