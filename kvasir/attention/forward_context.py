"""The one ambient object: what attention, MoE and recurrent layers read during a forward pass.

Legal readers: layers/attention.py (and, later, layers/moe, layers/recurrent). Entered by the
model runner only; never nested; cleared on exit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class ForwardContext:
    """metadata: the attention backend's; kv_caches: layer index -> that layer's cache."""

    metadata: Any
    kv_caches: list[torch.Tensor]
    extra: dict[str, Any] = field(default_factory=dict)


_current: ForwardContext | None = None


@contextmanager
def forward_context(context: ForwardContext) -> Iterator[None]:
    global _current
    if _current is not None:
        raise RuntimeError("forward_context is already entered; forward passes never nest")
    _current = context
    try:
        yield
    finally:
        _current = None


def get_forward_context() -> ForwardContext:
    if _current is None:
        raise RuntimeError("attention ran outside of a forward pass: enter forward_context first")
    return _current
