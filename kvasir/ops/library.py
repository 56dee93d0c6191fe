"""The fused ops as `torch.ops.kvasir_graph.*`: what a tracer sees of them, and what code made by a compiler calls.

Eager code never comes here: it calls implementations directly, since a trip through torch's dispatcher costs as much
as a small kernel. Importing this module registers the ops; each has a fake kernel, which says shapes and types only.

A node stands for an op whoever serves it (Triton, C++, torch), so the namespace is not that of the native library,
whose `torch.ops.kvasir.*` are one of these implementations.
"""

from collections.abc import Callable
from typing import Any

import torch

from kvasir.ops.dispatch import TRACEABLE, untraced

_library = torch.library.Library("kvasir_graph", "DEF")


def _like(x: torch.Tensor, *rest: Any) -> torch.Tensor:
    return x.new_empty(x.shape)


def _two_like(x: torch.Tensor, residual: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return x.new_empty(residual.shape), x.new_empty(residual.shape)


def _half(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


def _projected(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _gated(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // 2))


def _normed(
    x: torch.Tensor, residual: torch.Tensor, norm_weight: torch.Tensor, eps: float, weight: torch.Tensor, *bias: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return _projected(x, weight), x.new_empty(residual.shape)


def _normed_gated(
    x: torch.Tensor, residual: torch.Tensor, norm_weight: torch.Tensor, eps: float, weight: torch.Tensor, *bias: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return _gated(x, weight), x.new_empty(residual.shape)


_NORMED = "(Tensor x, Tensor residual, Tensor norm_weight, float eps, Tensor weight, Tensor? bias=None)"
_SIGNATURES: dict[str, tuple[str, Callable[..., Any]]] = {
    "rms_norm": ("(Tensor x, Tensor weight, float eps) -> Tensor", _like),
    "add_rms_norm": ("(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)", _two_like),
    "silu_and_mul": ("(Tensor x) -> Tensor", _half),
    "linear": ("(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", _projected),
    "gated_linear": ("(Tensor x, Tensor weight, Tensor? bias=None) -> Tensor", _gated),
    "norm_linear": (f"{_NORMED} -> (Tensor, Tensor)", _normed),
    "norm_gated_linear": (f"{_NORMED} -> (Tensor, Tensor)", _normed_gated),
}


def _register(name: str, signature: str, fake: Callable[..., Any]) -> None:
    def run(x: torch.Tensor, *rest: Any) -> Any:
        return untraced(name, x.device)(x, *rest)

    _library.define(name + signature)
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"kvasir_graph::{name}", fake, lib=_library)


for _name in TRACEABLE:
    _register(_name, *_SIGNATURES[_name])
