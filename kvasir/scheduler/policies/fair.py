"""Fair shares: callers (API keys) are served by weight, whatever one of them queues.

Each tenant has a counter of the service it got, tokens over weight. The tenant with the smallest counter is next.
What was not used is not saved up: one who comes back after a pause starts at the level of those who are being
served. That is deficit scheduling, with the deficit read off the difference of two counters.
"""

import heapq
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator

from kvasir.errors import EngineError
from kvasir.scheduler.queue import PriorityPolicy, order_key
from kvasir.scheduler.request import Request

OUTPUT_COST = 4.0
"""A generated token counts as much as this many prompt tokens, as it does in most price lists: it has a step to
itself, where prompt tokens share one."""
MAX_TENANTS = 4096
"""Counters kept; of more, those of tenants that were idle longest are forgotten."""


class _Tenant:
    """`waiting` is ordered within the tenant: priority with ageing, then arrival."""

    __slots__ = ("service", "waiting", "weight")

    def __init__(self, service: float):
        self.service = service
        self.weight = 1.0
        self.waiting: list[Request] = []


class FairSharePolicy:
    """Weighted fair sharing between `EngineCoreRequest.tenant`s, priority with ageing within each.

    Nothing starves: a counter only grows by being served, so a tenant that waits becomes the smallest; within it
    requests age. Running requests keep the order in which they were placed, the last is the first victim.
    """

    charges = True

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()
        self._within = PriorityPolicy()
        self._level = 0.0  # service of the tenant that was placed last
        self._num_waiting = 0
        self._arrivals = 0
        self._placements = 0

    def push(self, req: Request) -> None:
        tenant = self._tenant(req)
        if not tenant.waiting:  # what it did not use is not saved up
            levels = [t.service for t in self._tenants.values() if t.waiting]
            tenant.service = max(tenant.service, min(levels, default=self._level))
        tenant.weight = max(req.message.weight, 1e-3)
        self._arrivals += 1
        if req.was_placed:  # preempted: in front of everything of its tenant that was never placed
            req.order_key = (float("-inf"), req.order_key[1])
        else:
            req.order_key = (self._within.score(req), self._arrivals)
        insort(tenant.waiting, req, key=order_key)
        self._num_waiting += 1

    def order(self, now: float) -> Iterator[Request]:
        heap = [(t.service, i, t, 0) for i, t in enumerate(self._tenants.values()) if t.waiting]
        heapq.heapify(heap)
        while heap:
            service, i, tenant, at = heap[0]
            req = tenant.waiting[at]
            yield req
            # Counters move when the step is sealed; until then its prompt stands for what it will be charged.
            expected = service + len(req.tokens) / tenant.weight
            if at + 1 < len(tenant.waiting):
                heapq.heapreplace(heap, (expected, i, tenant, at + 1))
            else:
                heapq.heappop(heap)

    def charge(self, req: Request, tokens: int) -> None:
        tenant = self._tenant(req)
        cost = OUTPUT_COST if tokens == 1 and req.num_expected > req.num_prompt else float(tokens)
        tenant.service += cost / tenant.weight

    def remove(self, req: Request) -> None:
        tenant = self._tenants.get(req.message.tenant)
        waiting = tenant.waiting if tenant is not None else []
        at = bisect_left(waiting, req.order_key, key=order_key)
        if tenant is None or at == len(waiting) or waiting[at] is not req:
            raise EngineError(f"request {req.request_id} is not waiting.")
        del waiting[at]
        self._num_waiting -= 1
        self._level = max(self._level, tenant.service)
        self._placements += 1
        req.order_key = (0.0, self._placements)

    def __len__(self) -> int:
        return self._num_waiting

    def _tenant(self, req: Request) -> _Tenant:
        name = req.message.tenant
        tenant = self._tenants.get(name)
        if tenant is None:
            if len(self._tenants) >= MAX_TENANTS:
                self._forget()
            tenant = self._tenants[name] = _Tenant(self._level)
        self._tenants.move_to_end(name)
        return tenant

    def _forget(self) -> None:
        idle = next((name for name, tenant in self._tenants.items() if not tenant.waiting), None)
        if idle is not None:
            del self._tenants[idle]
