"""What the native ops return, by shape alone: lets torch trace and compile through them."""

from collections.abc import Callable
from typing import Any

import torch


def register(name: str) -> Callable[..., Any]:
    return torch.library.register_fake(f"kvasir::{name}")


@register("linear")
def _linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@register("linear_bias")
def _linear_bias(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


@register("rms_norm")
def _rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return x.new_empty(x.shape)


@register("add_rms_norm")
def _add_rms_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@register("silu_and_mul")
def _silu_and_mul(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty(x.shape[0], x.shape[1] // 2)


@register("apply_rope")
def _apply_rope(
    positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape)


@register("reshape_and_cache")
def _reshape_and_cache(
    key: torch.Tensor,
    value: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    slots: torch.Tensor,
) -> None:
    return None


@register("rope_and_cache")
def _rope_and_cache(positions: torch.Tensor, query: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
    return query.new_empty(query.shape)


@register("norm_rope_and_cache")
def _norm_rope_and_cache(positions: torch.Tensor, query: torch.Tensor, *others: torch.Tensor | float) -> torch.Tensor:
    return query.new_empty(query.shape)


@register("paged_attention")
def _paged_attention(query: torch.Tensor, *others: torch.Tensor | float | int) -> torch.Tensor:
    return query.new_empty(query.shape)
