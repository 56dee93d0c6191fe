"""A scheduler -> EngineState. Reads, changes nothing, and looks at a bounded number of requests and blocks."""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from kvasir.kv_cache.block_map import block_map
from kvasir.messages.state import MAX_LISTED, MAX_MAP_CELLS, EngineState, LiveRequest
from kvasir.scheduler.request import Request

if TYPE_CHECKING:
    from kvasir.scheduler.scheduler import Scheduler


@dataclass(slots=True)
class StepTotals:
    """Sums over all steps whose result has come. `seconds` is the worker's time."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.steps += 1
        self.tokens += tokens
        self.seconds += seconds


def make_state(scheduler: "Scheduler", now: float) -> EngineState:
    settings, kv, totals = scheduler.settings, scheduler.kv, scheduler.totals
    per_cell, digits = block_map(kv.pool.blocks, MAX_MAP_CELLS)

    def live(req: Request) -> LiveRequest:
        return LiveRequest(
            request_id=req.request_id,
            state=req.state.value,
            arrival_time=req.message.arrival_time,
            num_prompt_tokens=req.num_prompt,
            num_output_tokens=req.num_output,
            num_computed_tokens=req.num_computed,
            num_cached_tokens=req.num_cached,
            num_blocks=kv.capacity(req.request_id) // kv.block_size if kv.holds(req.request_id) else 0,
        )

    return EngineState(
        epoch=scheduler.epoch,
        num_running=scheduler.num_running,
        num_waiting=scheduler.num_waiting,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_queued_requests=settings.max_queued_requests,
        num_steps=totals.steps,
        num_step_tokens=totals.tokens,
        step_s=totals.seconds,
        block_size=kv.block_size,
        num_blocks=kv.spec.num_blocks,
        num_used_blocks=kv.num_used_blocks,
        num_cached_blocks=kv.pool.num_hashed,
        blocks_per_cell=per_cell,
        block_map=digits,
        running=[live(req) for req in scheduler.running[:MAX_LISTED]],
        waiting=[live(req) for req in islice(scheduler.waiting.order(now), MAX_LISTED)],
    )
