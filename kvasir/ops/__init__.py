"""Ops: the tensor functions that have more than one implementation.

*Ring*: worker. Tensors -> tensors; the implementation is chosen by the tensors' platform, once per process.

An op has one name in all its places: `ops/<x>.py` is its face (documented shapes, checks, dispatch),
`ops/reference/<x>.py` its specification in plain torch; `ops/cpu/<x>.py` (torch's fused functions), `ops/cpp/<x>.py`
(csrc/cpu) and `ops/triton/<x>.py` are faster ones.

*Knows nothing about* models, requests, schedulers or configuration.
"""

from kvasir.ops.activation import silu_and_mul
from kvasir.ops.dispatch import Choice, choices
from kvasir.ops.kv_write import reshape_and_cache
from kvasir.ops.linear import gated_linear, linear, norm_gated_linear, norm_linear
from kvasir.ops.norm import add_rms_norm, rms_norm
from kvasir.ops.paged_attention import paged_attention
from kvasir.ops.rope import apply_rope
from kvasir.ops.rope_and_cache import rope_and_cache
from kvasir.ops.step_inputs import SlotTables, StepInputs, decode_inputs, ragged_inputs

__all__ = [
    "Choice",
    "SlotTables",
    "StepInputs",
    "add_rms_norm",
    "apply_rope",
    "choices",
    "decode_inputs",
    "gated_linear",
    "linear",
    "norm_gated_linear",
    "norm_linear",
    "paged_attention",
    "ragged_inputs",
    "reshape_and_cache",
    "rms_norm",
    "rope_and_cache",
    "silu_and_mul",
]
