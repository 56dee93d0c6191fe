"""What several cores answer to one control call, as one answer."""

from collections.abc import Callable, Sequence
from typing import Any

from kvasir.messages.state import MAX_LISTED

_SUMMED = (
    "num_running", "num_waiting", "max_num_seqs", "max_num_batched_tokens", "max_queued_requests", "num_steps",
    "num_step_tokens", "step_s", "num_blocks", "num_used_blocks", "num_cached_blocks",
)  # fmt: skip


def combine(name: str, values: Sequence[Any]) -> Any:
    """The value itself when there is one; what nobody knows to combine stays a list."""
    if len(values) == 1:
        return values[0]
    how = _HOW.get(name)
    return list(values) if how is None else how(values)


def _stats(values: Sequence[list[Any]]) -> list[Any]:
    """SchedulerStats as plain lists whose last fields may be left out; all of them are sums."""
    longest = max(map(len, values), default=0)
    return [_sum([value[i] for value in values if i < len(value)]) for i in range(longest)]


def _sum(values: Sequence[Any]) -> Any:
    """Of numbers, or field by field of lists and of mappings of them; None is nothing."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    if isinstance(there[0], dict):
        names = dict.fromkeys(name for value in there for name in value)
        return {name: _sum([value.get(name) for value in there]) for name in names}
    if isinstance(there[0], list):
        return [_sum(column) for column in zip(*there, strict=True)]
    return sum(there)


def _states(values: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """EngineStates: counts are sums, lists and the map of blocks follow one another."""
    whole = dict(values[0])
    for field in _SUMMED:
        whole[field] = sum(value[field] for value in values)
    for field in ("running", "waiting"):
        whole[field] = [request for value in values for request in value[field]][:MAX_LISTED]
    whole["block_map"] = "".join(value["block_map"] for value in values)
    whole["epoch"] = max(value["epoch"] for value in values)
    return whole


def _of_workers(values: Sequence[Any]) -> Any:
    """What a worker says is a text, or nothing."""
    return "; ".join(map(str, values)) if any(value is not None for value in values) else None


_HOW: dict[str, Callable[[Sequence[Any]], Any]] = {
    "reset_prefix_cache": all,
    "check_integrity": lambda values: None,
    "stats": _stats,
    "state": _states,
    "progress": lambda values: {request_id: figures for value in values for request_id, figures in value.items()},
    "worker": _of_workers,
}
