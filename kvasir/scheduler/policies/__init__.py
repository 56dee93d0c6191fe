"""What may be chosen at the scheduler's two seams: queue policies by name, and limiters that are no necessity."""

from collections.abc import Callable

from kvasir.errors import ConfigError
from kvasir.scheduler.policies.deadline import DeadlinePolicy
from kvasir.scheduler.policies.fair import FairSharePolicy
from kvasir.scheduler.policies.growth import GrowthForecast
from kvasir.scheduler.queue import FirstComePolicy, PriorityPolicy, QueuePolicy

__all__ = ["DeadlinePolicy", "FairSharePolicy", "GrowthForecast", "make_policy"]


def make_policy(name: str) -> QueuePolicy:
    """Raises ConfigError for a name that is none of `SchedulerConfig.scheduling_policy`'s."""
    policies: dict[str, Callable[[], QueuePolicy]] = {
        "fcfs": FirstComePolicy,
        "priority": PriorityPolicy,
        "deadline": DeadlinePolicy,
        "fair": FairSharePolicy,
    }
    if name not in policies:
        raise ConfigError(f"scheduling policy must be one of {', '.join(policies)}, got {name!r}.")
    return policies[name]()
