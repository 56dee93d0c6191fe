"""Who runs next, with how many tokens, in which slot: continuous batching over one token budget.

*Ring*: core. EngineCoreRequest -> SchedulerOutput; ModelRunnerOutput -> EngineCoreOutput.
*Knows nothing about*: devices, text, processes, features of rank 9 (they join through `Limiter` and `QueuePolicy`).
"""

from kvasir.scheduler.limiter import PREEMPT, SKIP, STOP, KVBlocks, Limiter, SequenceSlots, TokenBudget
from kvasir.scheduler.policies import DeadlinePolicy, FairSharePolicy, GrowthForecast
from kvasir.scheduler.queue import FirstComePolicy, PriorityPolicy, QueuePolicy
from kvasir.scheduler.request import Request, RequestState
from kvasir.scheduler.scheduler import Scheduler
from kvasir.scheduler.settings import SchedulerSettings

__all__ = [
    "PREEMPT",
    "SKIP",
    "STOP",
    "DeadlinePolicy",
    "FairSharePolicy",
    "FirstComePolicy",
    "GrowthForecast",
    "KVBlocks",
    "Limiter",
    "PriorityPolicy",
    "QueuePolicy",
    "Request",
    "RequestState",
    "Scheduler",
    "SchedulerSettings",
    "SequenceSlots",
    "TokenBudget",
]
