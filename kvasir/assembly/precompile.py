"""Composition root of a start without a card: which kernels a worker would compile on one, and their compilation."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from kvasir.assembly.facts import Facts
from kvasir.assembly.resolve import resolve
from kvasir.config import EngineArgs, KvasirConfig
from kvasir.errors import ConfigError
from kvasir.platforms.cpu import cpu_cores, cpu_flags
from kvasir.platforms.paper import PaperPlatform

LEFT_OUT_CUDA = (
    "libnvrtc is not installed here, so no kernels in CUDA C++ are compiled; Triton's take their place, as in any "
    "start with this installation."
)
LEFT_OUT_TORCH = "What torch compiles for optimization levels from 1 on is left to the first start on a card."


@dataclass(frozen=True)
class Card:
    """What choices depend on. The defaults are an H100's.

    Attributes:
        memory_bytes: decides how many requests run at once unless that is given; 70 GB and more are one class.
    """

    capability: tuple[int, int] = (9, 0)
    processors: int = 132
    memory_bytes: int = 80 << 30


@dataclass(frozen=True)
class Precompiled:
    """What was done.

    Attributes:
        found: how many of the kernels the caches had before.
        num_bytes: of all their files.
        folders: where these are.
        left_out: sentences on what a start on a card might still compile.
    """

    kernels: int
    found: int
    num_bytes: int
    folders: list[Path]
    seconds: float
    left_out: list[str]


def precompile(
    args: EngineArgs, card: Card, progress: Callable[[int, int], None] = lambda done, of: None
) -> Precompiled:
    """Compiles all kernels that `kvasir serve` with these options would on such a card; needs none.

    Args:
        progress: called as kernels are done, with how many are and how many there are.

    Raises:
        ConfigError: options that do not go together, or no Triton.
    """
    if args.device == "cpu":
        raise ConfigError("device is cpu, where there is nothing to compile; leave it out.", param="device")
    if find_spec("triton") is None:
        raise ConfigError("Triton is not installed, so there is nothing to compile with: pip install triton.")
    started = time.perf_counter()
    config = resolve(args, usage="server", facts=_facts(card)).config

    from kvasir.assembly.worker import make_worker
    from kvasir.compilation.compiler_process import CudaJob, Job, compile_all, kept_files
    from kvasir.compilation.noting import KernelNotes
    from kvasir.ops.target import Target, compile_for

    jobs: list[Job] = []
    done = 0

    def one_more() -> None:
        nonlocal done
        done += 1
        progress(done, len(jobs))

    with compile_for(Target("cuda", card.capability, card.processors)):
        worker = make_worker(config, started, platform=PaperPlatform(card.capability))
        with KernelNotes(jobs.append).instead_of_launching():
            worker.launch_all_kinds()
        found = sum(bool(kept_files(job)) for job in jobs)
        progress(0, len(jobs))
        compile_all(jobs, one_more)
        kept = [(job, file) for job in jobs for file in kept_files(job)]
    return Precompiled(
        kernels=len(jobs),
        found=found,
        num_bytes=sum(file.stat().st_size for file in {file for _, file in kept}),
        # Triton gives each kernel a folder of its own.
        folders=sorted({file.parents[0 if isinstance(job, CudaJob) else 1] for job, file in kept}),
        seconds=time.perf_counter() - started,
        left_out=_left_out(config),
    )


def _facts(card: Card) -> Facts:
    why = "what is compiled is for a card"
    return Facts("cuda", why, card.memory_bytes, cpu_cores(), cpu_flags(), card.capability, num_cards=1)


def _left_out(config: KvasirConfig) -> list[str]:
    from kvasir.ops.cuda import nvrtc

    left = [] if nvrtc.library_path() else [LEFT_OUT_CUDA]
    return [*left, LEFT_OUT_TORCH] if config.compilation.optimization_level else left
