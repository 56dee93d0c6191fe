"""Op: choose a token for each row from its logits. See `reference/sample.py` for what is computed."""

from collections.abc import Sequence
from functools import cache

import torch

from kvasir.ops.reference import sample as reference


@cache
def _triton_works() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def sample_tokens(
    logits: torch.Tensor,  # [R, V] any float type
    slots: torch.Tensor,  # [R] int64
    temperature: torch.Tensor,  # [slots] float32, 0 = greedy
    seeds: torch.Tensor,  # [slots] int64
    positions: torch.Tensor,  # [R] int64
    cutoff: torch.Tensor | None = None,  # [R] float32
    random_rows: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """-> token_ids [R] int64, failed [R] bool. `random_rows` (host) names the rows that are not greedy, all if None."""
    if logits.device.type == "cuda" and logits.shape[0] and _triton_works():
        from kvasir.ops.triton import sample as fused

        return fused.sample_tokens(logits, slots, temperature, seeds, positions, cutoff)
    return reference.sample_tokens(logits, slots, temperature, seeds, positions, cutoff, random_rows)


def greedy_tokens(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-> token_ids [R] int64 (the lowest id among equals), failed [R] bool."""
    best, token_ids = logits.max(dim=-1)
    return token_ids, ~torch.isfinite(best)


cutoffs = reference.cutoffs
