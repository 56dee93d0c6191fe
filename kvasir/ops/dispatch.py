"""Which implementation serves which op on which platform: one table, decided once per process, printable.

A row lists what may serve an op per platform, best first, as "module:function" (imported when chosen, so that
a machine without Triton never imports it). `native`, the reference in plain torch, is the last resort of every op.
"""

import importlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from kvasir.ops.target import Target, target_named, target_of

PLATFORMS = ("cuda", "hip", "xpu", "cpu")

_OPS = "kvasir.ops"
TABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "rms_norm": {
        "cuda": (f"{_OPS}.triton.norm:rms_norm",),
        "cpu": (f"{_OPS}.cpp.norm:rms_norm", f"{_OPS}.cpu.norm:rms_norm"),
        "native": (f"{_OPS}.reference.norm:rms_norm",),
    },
    "add_rms_norm": {
        "cuda": (f"{_OPS}.triton.norm:add_rms_norm",),
        "cpu": (f"{_OPS}.cpp.norm:add_rms_norm", f"{_OPS}.cpu.norm:add_rms_norm"),
        "native": (f"{_OPS}.reference.norm:add_rms_norm",),
    },
    "silu_and_mul": {
        "cuda": (f"{_OPS}.triton.activation:silu_and_mul",),
        "cpu": (f"{_OPS}.cpp.activation:silu_and_mul",),
        "native": (f"{_OPS}.reference.activation:silu_and_mul",),
    },
    "apply_rope": {
        "cuda": (f"{_OPS}.triton.rope:apply_rope",),
        "cpu": (f"{_OPS}.cpp.rope:apply_rope", f"{_OPS}.cpu.rope:apply_rope"),
        "native": (f"{_OPS}.reference.rope:apply_rope",),
    },
    "reshape_and_cache": {
        "cuda": (f"{_OPS}.triton.kv_write:reshape_and_cache",),
        "cpu": (f"{_OPS}.cpp.kv_write:reshape_and_cache",),
        "native": (f"{_OPS}.reference.kv_write:reshape_and_cache",),
    },
    "rope_and_cache": {
        "cuda": (f"{_OPS}.triton.rope_and_cache:rope_and_cache",),
        "cpu": (f"{_OPS}.cpp.rope:rope_and_cache",),
        "native": (f"{_OPS}.reference.rope_and_cache:rope_and_cache",),
    },
    "linear": {
        "cuda": (f"{_OPS}.cuda.linear:linear", f"{_OPS}.triton.linear:linear"),
        "cpu": (f"{_OPS}.cpp.linear:linear",),
        "native": (f"{_OPS}.reference.linear:linear",),
    },
    "gated_linear": {
        "cuda": (f"{_OPS}.cuda.linear:gated_linear", f"{_OPS}.triton.linear:gated_linear"),
        "cpu": (f"{_OPS}.cpp.linear:gated_linear",),
        "native": (f"{_OPS}.reference.linear:gated_linear",),
    },
    "norm_linear": {
        "cuda": (f"{_OPS}.cuda.linear:norm_linear", f"{_OPS}.triton.linear:norm_linear"),
        "native": (f"{_OPS}.reference.linear:norm_linear",),
    },
    "norm_gated_linear": {
        "cuda": (f"{_OPS}.cuda.linear:norm_gated_linear", f"{_OPS}.triton.linear:norm_gated_linear"),
        "native": (f"{_OPS}.reference.linear:norm_gated_linear",),
    },
    "decode_inputs": {
        "cuda": (f"{_OPS}.triton.step_inputs:decode_inputs",),
        "native": (f"{_OPS}.reference.step_inputs:decode_inputs",),
    },
    "ragged_inputs": {
        "cuda": (f"{_OPS}.triton.step_inputs:ragged_inputs",),
        "native": (f"{_OPS}.reference.step_inputs:ragged_inputs",),
    },
    "paged_attention": {
        "cuda": (f"{_OPS}.triton.paged_attention:paged_attention",),
        "cpu": (f"{_OPS}.cpp.paged_attention:paged_attention",),
        "native": (f"{_OPS}.reference.paged_attention:paged_attention",),
    },
}


@dataclass(frozen=True)
class Choice:
    """One line of `kvasir env`: what serves `op` on `platform`, and why that one."""

    op: str
    platform: str
    implementation: str
    why: str


def platform_of(device: torch.device) -> str:
    """One of PLATFORMS."""
    return target_of(device).platform


@cache
def _decide(op: str, target: Target) -> tuple[Choice, Callable[..., Any]]:
    """A module may have a function `refusal(target)`: None, or why what is in it cannot serve there."""
    refused: list[str] = []
    platform = target.platform
    for key in (platform, "native"):
        for place in TABLE[op].get(key, ()):
            module, _, function = place.partition(":")
            name = module.removeprefix(_OPS + ".")
            try:
                imported = importlib.import_module(module)
            except ImportError as error:
                refused.append(f"{name} cannot be imported ({error})")
                continue
            if refusal := getattr(imported, "refusal", _no_refusal)(target):
                refused.append(f"{name} cannot serve ({refusal})")
                continue
            call = getattr(imported, function)
            if refused:
                why = "; ".join(refused)
            elif key == "native":
                why = f"no implementation of its own for {platform}"
            else:
                why = f"first in the table for {platform}"
            return Choice(op, platform, f"{name}:{function}", why), call
    raise ImportError(f"op {op!r} has no importable implementation for {platform!r}: {'; '.join(refused)}")


def _no_refusal(target: Target) -> None:
    return None


TRACEABLE = (
    "rms_norm", "add_rms_norm", "silu_and_mul", "linear", "gated_linear", "norm_linear", "norm_gated_linear",
)  # fmt: skip
"""Ops that a traced model may hold as one node: `torch.ops.kvasir_graph.<op>` (`ops/library.py`)."""

_opaque: frozenset[str] | None = None
"""While a model is traced: those of TRACEABLE that stay one node each."""


def implementation(op: str, device: torch.device) -> Callable[..., Any]:
    """The function that serves `op` for tensors on `device`."""
    if _opaque is not None and op in TRACEABLE:
        return _for_tracer(op, op in _opaque)
    return _decide(op, target_of(device))[1]


def untraced(op: str, device: torch.device) -> Callable[..., Any]:
    """The same, whoever traces."""
    return _decide(op, target_of(device))[1]


@contextmanager
def traced_ops(opaque: Collection[str]) -> Iterator[None]:
    """In here, ops named by `opaque` are single nodes for a tracer; the others open up into their reference."""
    global _opaque
    from kvasir.ops import library as library  # registers torch.ops.kvasir_graph

    before, _opaque = _opaque, frozenset(opaque)
    try:
        yield
    finally:
        _opaque = before


def _for_tracer(op: str, is_opaque: bool) -> Callable[..., Any]:
    if is_opaque:
        return getattr(torch.ops.kvasir_graph, op).default
    module, _, function = TABLE[op]["native"][0].partition(":")
    return getattr(importlib.import_module(module), function)


def choices(platform: str) -> list[Choice]:
    """The decision for every op on one platform ("cuda", "hip", "xpu", "cpu")."""
    target = target_named(platform)
    return [_decide(op, target)[0] for op in TABLE]
