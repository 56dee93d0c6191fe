"""The `Limiter` seam: who may refuse or shorten a row of a step, and the three limiters of the core.

Limiters are asked in a fixed order: token budget, slots, features, KV blocks last. Only KV blocks may answer
PREEMPT. If all agree, each is told with `take` in the same order.
"""

import heapq
from typing import Protocol

from kvasir.kv_cache import KVCacheManager
from kvasir.messages import ModelRunnerOutput, SchedulerOutput
from kvasir.scheduler.request import NO_SLOT, Request

SKIP = 0
"""Not this request in this step; the next ones may run."""
STOP = -1
"""Not this request nor any after it in this step."""
PREEMPT = -2
"""This running request could go on if another one gave its blocks back."""


class Limiter(Protocol):
    """One bound on what a step runs.

    Attributes:
        asks_decode: whether it wants to be asked about running rows that compute one token and sample the next.
            Most have nothing to say on those, and they are most rows of most steps; with one limiter that
            does, each such row goes the slow way.
    """

    asks_decode: bool

    def begin(self) -> None:
        """A step is about to be planned."""

    def limit(self, req: Request, n: int) -> int:
        """At most how many of the `n` tokens `req` may compute (>= 1), or SKIP, STOP, PREEMPT. Changes nothing."""

    def take(self, req: Request, n: int) -> None:
        """`req` computes `n` tokens in this step; for a waiting request this is where it is placed."""

    def release(self, req: Request) -> None:
        """`req` ended or was preempted; called once for each placement."""

    def update(self, step: SchedulerOutput, result: ModelRunnerOutput | None) -> None:
        """The step's result came, or it failed (None). Called before requests are updated."""


class TokenBudget:
    """So many tokens a step; long prompts are cut to what is left of it, or wait if chunks are off."""

    asks_decode = False

    def __init__(self, max_tokens: int, chunked: bool = True, long_prefill_threshold: int = 0):
        self.max_tokens = max_tokens
        self.chunked = chunked
        self.long_prefill_threshold = long_prefill_threshold
        self.left = max_tokens

    def begin(self) -> None:
        self.left = self.max_tokens

    def limit(self, req: Request, n: int) -> int:
        if not self.chunked:
            return n if n <= self.left else STOP
        if self.long_prefill_threshold:
            n = min(n, self.long_prefill_threshold)
        return min(n, self.left) or STOP

    def take(self, req: Request, n: int) -> None:
        self.left -= n

    def release(self, req: Request) -> None:
        pass

    def update(self, step: SchedulerOutput, result: ModelRunnerOutput | None) -> None:
        pass


class SequenceSlots:
    """Worker rows 0..max_num_seqs-1; the lowest free one is given, so that the worker's active rows stay dense."""

    asks_decode = False

    def __init__(self, max_num_seqs: int):
        self.max_num_seqs = max_num_seqs
        self._free = list(range(max_num_seqs))  # a heap
        self._freed: list[int] = []  # not yet told to the worker

    @property
    def num_free(self) -> int:
        return len(self._free)

    def begin(self) -> None:
        pass

    def limit(self, req: Request, n: int) -> int:
        return n if req.slot != NO_SLOT or self._free else STOP

    def take(self, req: Request, n: int) -> None:
        if req.slot == NO_SLOT:
            req.slot = heapq.heappop(self._free)

    def release(self, req: Request) -> None:
        heapq.heappush(self._free, req.slot)
        self._freed.append(req.slot)
        req.slot = NO_SLOT

    def update(self, step: SchedulerOutput, result: ModelRunnerOutput | None) -> None:
        if result is None and step.freed_slots:  # the worker may not have heard; those in use again are overwritten
            free = set(self._free)
            self._freed += [s for s in step.freed_slots if s in free and s not in self._freed]

    def collect_freed(self) -> list[int]:
        """Each freed slot once, for the next SchedulerOutput."""
        freed, self._freed = self._freed, []
        return freed

    def wrong(self, running: list[Request]) -> list[str]:
        held = [req.slot for req in running]
        if sorted(held + self._free) != list(range(self.max_num_seqs)):
            return [f"slots are lost or held twice: held {sorted(held)}, free {sorted(self._free)}"]
        return []


class KVBlocks:
    """Blocks for every token of the step; a waiting request is placed only if all its known tokens fit.

    It then gets the blocks of all of them at once: a prompt that runs in chunks cannot be left without room
    half-way by others that were let in meanwhile. A hundredth of the pool is kept for those who run already.
    """

    asks_decode = False

    def __init__(self, kv: KVCacheManager):
        self.kv = kv
        self.granted: list[int] = []  # block ids of the latest `take`
        self._num_placed = 0
        self._spare = kv.spec.num_blocks // 100

    def begin(self) -> None:
        pass

    def limit(self, req: Request, n: int) -> int:
        if req.slot != NO_SLOT:
            return n if self.kv.can_grow(req.request_id, req.num_computed + n) else PREEMPT
        spare = self._spare if self._num_placed else 0
        return n if self.kv.can_place(req.chain.hashes, req.num_hits, req.num_expected, spare) else STOP

    def take(self, req: Request, n: int) -> None:
        if self.kv.holds(req.request_id):
            self.granted = self.kv.grow(req.request_id, req.num_computed + n)
        else:
            self.granted = self.kv.place(req.request_id, req.chain.hashes, req.num_hits, req.num_expected)
            self._num_placed += 1
        if n == req.todo:  # decodes from here on
            req.fast_until = min(self.kv.capacity(req.request_id), req.max_total - 1)

    def add_one(self, req: Request) -> bool:
        """The short way for a row that computes one token: one more block if its own are full and one is free."""
        kv = self.kv
        if kv.num_free_blocks:
            self.granted = kv.grow(req.request_id, req.num_computed + 1)
        elif kv.can_grow(req.request_id, req.num_computed + 1):
            self.granted = []
        else:
            return False
        req.fast_until = min(kv.capacity(req.request_id), req.max_total - 1)
        return True

    def release(self, req: Request) -> None:
        self.kv.release(req.request_id)
        self._num_placed -= 1

    def update(self, step: SchedulerOutput, result: ModelRunnerOutput | None) -> None:
        if result is not None:
            self.kv.confirm_step(step.step_id)
