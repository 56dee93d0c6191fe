"""Programmatic dependent launch: a kernel comes onto the card while the one before it still runs.

Each kernel of a step calls `wait_for_predecessor` before it reads or writes anything that another kernel touches, and
before any return: a kernel that never waited would let its successor start too early. What it does before that call
(prefetching weights) runs beside its predecessor. Cards since Hopper have it; elsewhere the call is nothing.

The wait is for the end of the predecessor, which has itself waited: behind it, all that was launched before is done.

What may be touched before the call is what no kernel writes (weights), and the inputs of the step (positions, lengths, slots,
block tables), which attention and rotation read: between the kernel that writes those and the first that reads them stands
the embedding, an ordinary launch of torch's, which begins when all before it has ended. Some program of each launch must wait.
"""

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from kvasir import envs
from kvasir.ops.target import Target, target_of


@triton.jit
def wait_for_predecessor(PDL: tl.constexpr):
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def let_successor_begin(PDL: tl.constexpr):
    """Before this kernel's own wait: the successor may come and ask for its weights beside the predecessor."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def prefetch(pointers, num_bytes):
    """Asks for `num_bytes` (a multiple of 16) from each pointer (16-byte aligned) to be brought into the L2 cache."""
    tl.inline_asm_elementwise(
        "cp.async.bulk.prefetch.L2.global [$1], $2; mov.u32 $0, 0;",
        "=r,l,r",
        [pointers, num_bytes],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )


def enabled(device: torch.device) -> bool:
    return _has_it(target_of(device))


@cache
def _has_it(target: Target) -> bool:
    return target.platform == "cuda" and target.capability >= (9, 0) and not envs.NO_DEPENDENT_LAUNCH.flag


def options(device: torch.device) -> dict[str, Any]:
    """Further arguments of a launch whose kernel has a PDL parameter."""
    return {"PDL": True, "launch_pdl": True} if enabled(device) else {"PDL": False}
