"""Which graph serves a batch: chosen in every step from the batch's shape alone, by host numbers. Needs no torch."""

import enum
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


class CudagraphMode(enum.Enum):
    """What of a step is captured.

    FULL: batches in which every row decodes, and small batches that mix prompts and decoding, as a whole.
    FULL_DECODE_ONLY: only the former.
    NONE: nothing.
    """

    NONE = "none"
    FULL_DECODE_ONLY = "full_decode_only"
    FULL = "full"


@dataclass(frozen=True)
class BatchDescriptor:
    """The shape of a batch. `uniform_decode`: each row computes one token and samples."""

    num_tokens: int
    num_reqs: int
    uniform_decode: bool


class CudagraphDispatcher:
    """Picks the smallest graph that holds the batch.

    Args:
        decode_sizes: rows of the captured decode steps.
        mixed_sizes: tokens of the captured mixed steps.
        max_mixed_reqs: rows that a mixed step has at most.
    """

    def __init__(
        self, mode: CudagraphMode, decode_sizes: Sequence[int], mixed_sizes: Sequence[int] = (), max_mixed_reqs: int = 0
    ):
        self.mode = mode
        self.decode_sizes = sorted(set(decode_sizes)) if mode is not CudagraphMode.NONE else []
        self.mixed_sizes = sorted(set(mixed_sizes)) if mode is CudagraphMode.FULL else []
        self.max_mixed_reqs = max_mixed_reqs if self.mixed_sizes else 0

    def pick(self, batch: BatchDescriptor) -> tuple[CudagraphMode, int]:
        """(FULL, rows) for a decode step, (FULL, tokens) for a mixed one, (NONE, 0) where no graph fits."""
        size = 0
        if batch.uniform_decode:
            size = _at_least(self.decode_sizes, batch.num_reqs)
        elif batch.num_reqs <= self.max_mixed_reqs:
            size = _at_least(self.mixed_sizes, batch.num_tokens)
        return (CudagraphMode.FULL, size) if size else (CudagraphMode.NONE, 0)


def _at_least(sizes: list[int], wanted: int) -> int:
    index = bisect_left(sizes, wanted)
    return sizes[index] if index < len(sizes) else 0
