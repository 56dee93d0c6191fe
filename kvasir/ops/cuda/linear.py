"""Projections on Hopper: our CUDA kernel for a few rows and a small weight, Triton's or the library for the rest.

Where `refusal` gives a reason, Triton's serve instead.
"""

from typing import Any

import torch

from kvasir.ops.cuda.kernel import refusal as refusal
from kvasir.ops.cuda.skinny_linear import BLOCK, MAX_ROWS, SkinnyConfig, skinny_config, skinny_linear
from kvasir.ops.target import target_of
from kvasir.ops.triton import linear as triton_linear


def _config(x: torch.Tensor, weight: torch.Tensor, gated: bool) -> SkinnyConfig | None:
    """The variant that serves, or None. Fewer rows go to Triton's `gemv`, which is as fast and norms as well."""
    if not triton_linear.is_skinny(x, weight) or triton_linear.is_vector(x):
        return None
    outputs = weight.shape[0] // (2 if gated else 1)
    if x.shape[0] > MAX_ROWS or x.shape[1] % BLOCK or outputs % 2:
        return None
    return skinny_config(outputs, x.shape[1], gated, target_of(x.device).processors)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, gated: bool) -> torch.Tensor:
    config = _config(x, weight, gated)
    if config is not None:
        return skinny_linear(x, weight, bias, gated, config)
    return (triton_linear.gated_linear if gated else triton_linear.linear)(x, weight, bias)


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return _product(x, weight, bias, gated=False)


def gated_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return _product(x, weight, bias, gated=True)


def norm_linear(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return triton_linear.after_norm(*inputs, gated=False, product=_product)


def norm_gated_linear(*inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return triton_linear.after_norm(*inputs, gated=True, product=_product)
