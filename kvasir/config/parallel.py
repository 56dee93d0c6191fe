"""How many workers, and how they are started."""

from dataclasses import dataclass

from kvasir.config.option import AUTO, between, only, option

EXECUTORS = ("uni", "mp")


@dataclass(frozen=True)
class ParallelConfig:
    """How many workers, and how they are started."""

    tensor_parallel_size: int = option(
        1,
        help="Cards that share one layer. Reserved: only 1 in this version.",
        short="-tp",
        check=only(1, "must be 1: this version runs one worker; choose a model that fits on one device"),
        affects_graph=True,
    )
    pipeline_parallel_size: int = option(
        1,
        help="Groups of layers on different cards. Reserved: only 1 in this version.",
        short="-pp",
        check=only(1, "must be 1: this version runs one worker; choose a model that fits on one device"),
        affects_graph=True,
    )
    data_parallel_size: int = option(
        1,
        help="Engine cores behind one server, each with the whole model and a cache of its own: on cards of their own, "
        "or sharing the cores of a CPU. Requests go to the core that knows their beginning, or to the least busy one.",
        short="-dp",
        check=between(1, 64),
    )
    distributed_executor_backend: str = option(
        AUTO,
        help="uni: the worker runs inside the core's process. mp: in a process of its own. auto: uni for one worker.",
        choices=EXECUTORS,
    )

    @property
    def world_size(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size
