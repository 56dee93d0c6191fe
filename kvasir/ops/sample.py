"""Op: choose a token for each row from its logits. See `reference/sample.py` for what is computed."""

from collections.abc import Sequence
from functools import cache

import torch

from kvasir.ops.reference import sample as reference
from kvasir.ops.target import target_of


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
    if target_of(logits.device).is_card and logits.shape[0] and _triton_works():
        from kvasir.ops.triton import sample as fused

        return fused.sample_tokens(logits, slots, temperature, seeds, positions, cutoff)
    return reference.sample_tokens(logits, slots, temperature, seeds, positions, cutoff, random_rows)


def greedy_tokens(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-> token_ids [R] int64 (the lowest id among equals), failed [R] bool."""
    best, token_ids = logits.max(dim=-1)
    return token_ids, ~torch.isfinite(best)


def cutoffs(
    logits: torch.Tensor,  # [R, V] any float type
    slots: torch.Tensor,  # [R] int64, rows of the four tables below
    temperature: torch.Tensor,  # [slots] float32
    top_k: torch.Tensor,  # [slots] int64, 0 = off
    top_p: torch.Tensor,  # [slots] float32, 1 = off
    min_p: torch.Tensor,  # [slots] float32, 0 = off
    host_limits: Sequence[tuple[int, float, float]] | None,  # (top_k, top_p, min_p) of each row; chooses the path
) -> torch.Tensor | None:
    """-> [R] float32, the lowest logit that each row may choose (-inf: any); None when no row has a limit.

    Without `host_limits` any row may have any: for a captured launch, whose rows change.
    """
    if host_limits is None:
        host_limits = [(1, 0.5, 0.0)] * len(slots)
    limited = [r for r, (k, p, m) in enumerate(host_limits) if k > 0 or p < 1.0 or m > 0.0]
    if not limited:
        return None
    if target_of(logits.device).is_card and _triton_works():
        from kvasir.ops.triton import sample as fused

        return fused.cutoffs(logits, slots, temperature, top_k, top_p, min_p)
    if target_of(logits.device).is_card:
        limited = list(range(len(slots)))  # an index would have to be copied there
    whole = len(limited) == len(slots)
    some = slots if whole else slots[limited]
    found = reference.cutoffs(
        (logits if whole else logits[limited]).float(), temperature[some], top_k[some], top_p[some], min_p[some],
        max_top_k=max(k for k, _, _ in host_limits),
        any_top_p=any(p < 1.0 for _, p, _ in host_limits),
        any_unlimited_top_p=any(p < 1.0 and k == 0 for k, p, _ in host_limits),
    )  # fmt: skip
    if whole:
        return found
    everyone = torch.full(slots.shape, float("-inf"), device=logits.device)
    everyone[limited] = found
    return everyone
