"""Lets a waiting request in only if the KV cache will hold what everybody is expected to become.

A request takes blocks for its prompt at once and for its answer little by little. Whoever looks only at the free
blocks of the moment lets in too many, and throws them out again when they grow: all they had computed is lost.

The forecast: each row that runs has a step at which it is expected to end. Just before the k-th of them ends, those
that are still there have grown by as many tokens as steps have gone by. The largest of these moments must fit.
"""

from bisect import bisect_left, insort
from itertools import accumulate

from kvasir.kv_cache import KVCacheManager
from kvasir.messages import ModelRunnerOutput, SchedulerOutput
from kvasir.scheduler.limiter import STOP
from kvasir.scheduler.policies.lengths import OutputLengths
from kvasir.scheduler.request import NO_SLOT, Request, RequestState

_MAX_MARGIN = 0.3
_TARGET = 0.03
"""Tokens that may be lost to preemption, of all computed. Not 0: who never loses a bet leaves room unused."""
_GAIN = 0.5
_GOLDEN = 0.6180339887498949
"""Multiples of it, without their whole parts, fill 0 to 1 evenly."""
_PATIENCE_STEPS = 8
"""After a refusal with nothing released since, the forecast is asked again this many steps later."""


class _Row:
    """One placed request. `own` is its blocks that nobody shares, as they would have been at step 0."""

    __slots__ = ("end", "luck", "own", "req")

    def __init__(self, req: Request, own: float, end: int, luck: float):
        self.req, self.own, self.end, self.luck = req, own, end, luck


def _end(row: _Row) -> int:
    return row.end


class GrowthForecast:
    """A limiter over waiting requests; running ones are never its business.

    Hysteresis: a margin of the pool is kept free. Each preemption that happens all the same widens it by what was
    lost, each request that ends in peace narrows it by the share that may be lost, so it settles where the two meet.
    """

    asks_decode = False

    def __init__(self, kv: KVCacheManager):
        self.margin = 0.0
        self.num_refused = 0
        self._kv = kv
        self._lengths = OutputLengths()
        self._rows: list[_Row] = []  # by expected end
        self._by_request: dict[Request, _Row] = {}
        self._released: list[tuple[Request, int]] = []  # and the tokens it had computed
        self._step = 0
        self._ask_again = 0
        self._luck = 0.5
        self._at_most = 0  # blocks, if every placed request gets as long as it may

    def begin(self) -> None:
        for req, num_computed in self._released:
            share = _GAIN * num_computed / self._kv.spec.num_tokens
            if req.state is RequestState.FINISHED:
                self._lengths.add(req.num_output)
                self.margin = max(0.0, self.margin - share * _TARGET)
            else:
                self.margin = min(_MAX_MARGIN, self.margin + share)
        if self._released:
            self._released.clear()
            self._ask_again = self._step
        self._expect_anew()

    def limit(self, req: Request, n: int) -> int:
        if req.slot != NO_SLOT or not self._rows:  # somebody must run, or nobody ever ends
            return n
        if self._step < self._ask_again:
            return STOP
        at_most = self._at_most + self._kv.spec.blocks_for(req.max_total)
        if at_most <= self._kv.spec.num_blocks:  # whatever they do, there is room
            return n
        if self._peak(req) <= self._kv.spec.num_blocks * (1.0 - self.margin):
            return n
        self.num_refused += 1
        self._ask_again = self._step + _PATIENCE_STEPS
        return STOP

    def take(self, req: Request, n: int) -> None:
        if req in self._by_request:
            return
        size = self._kv.block_size
        own = self._kv.spec.blocks_for(req.num_expected) - req.num_hits - self._step / size
        row = self._by_request[req] = _Row(req, own, self._step + self._remaining(req, self._luck), self._luck)
        self._luck = (self._luck + _GOLDEN) % 1.0
        insort(self._rows, row, key=_end)
        self._at_most += self._kv.spec.blocks_for(req.max_total)

    def release(self, req: Request) -> None:
        row = self._by_request.pop(req)
        self._at_most -= self._kv.spec.blocks_for(req.max_total)
        at = bisect_left(self._rows, row.end, key=_end)
        while self._rows[at] is not row:
            at += 1
        del self._rows[at]
        self._released.append((req, req.num_computed))

    def update(self, step: SchedulerOutput, result: ModelRunnerOutput | None) -> None:
        self._step += 1

    def _expect_anew(self) -> None:
        """Rows that have outlived what was expected of them."""
        late = 0
        while late < len(self._rows) and self._rows[late].end <= self._step:
            late += 1
        for row in self._rows[:late]:
            row.end = self._step + self._remaining(row.req, row.luck)
        if late:
            self._rows.sort(key=_end)

    def _remaining(self, req: Request, luck: float) -> int:
        """Steps until `req` is expected to end: at most what it may still generate."""
        left = max(1, req.max_total - req.num_expected)
        if not req.stop_ids:  # nothing else ends it
            return left
        return min(left, self._lengths.remaining(req.num_output, luck))

    def _peak(self, req: Request) -> float:
        """The most blocks in use at any time from now on, were `req` placed."""
        size, now = self._kv.block_size, self._step
        own = self._kv.spec.blocks_for(req.num_expected) - req.num_hits
        newcomer = _Row(req, own - now / size, now + self._remaining(req, self._luck), self._luck)
        rows = self._rows.copy()
        insort(rows, newcomer, key=_end)
        taken = self._kv.blocks_to_take(req.chain.hashes, req.num_hits, req.num_expected)
        used, count = self._kv.num_used_blocks + taken, len(rows)
        gone = [0.0, *accumulate(row.own for row in rows)]  # own blocks of the first i to end, as of step 0
        stride = max(1, count // 64)
        # When row i ends, i rows have left with what they have now, and the others have grown.
        return max(
            used - gone[i] - i * now / size + (count - i) * (rows[i].end - now) / size for i in range(0, count, stride)
        )
