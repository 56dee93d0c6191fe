"""Ops: the tensor functions that have more than one implementation.

*Ring*: worker. Tensors -> tensors; the implementation is chosen by the tensors' platform, once per process.

An op has one name in all its places: `ops/<x>.py` is its face (documented shapes, checks, dispatch),
`ops/reference/<x>.py` its specification in plain torch, `ops/cpu/<x>.py` and `ops/triton/<x>.py` faster ones.

*Knows nothing about* models, requests, schedulers or configuration.
"""

from kvasir.ops.activation import silu_and_mul
from kvasir.ops.dispatch import Choice, choices
from kvasir.ops.kv_write import reshape_and_cache
from kvasir.ops.norm import add_rms_norm, rms_norm
from kvasir.ops.paged_attention import paged_attention
from kvasir.ops.rope import apply_rope

__all__ = [
    "Choice",
    "add_rms_norm",
    "apply_rope",
    "choices",
    "paged_attention",
    "reshape_and_cache",
    "rms_norm",
    "silu_and_mul",
]
