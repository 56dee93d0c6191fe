"""Rotary position embedding in plain torch."""

import torch

from kvasir.ops.reference import accumulate_dtype


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    half = cos.shape[-1]
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    first, second = first.to(cos.dtype), second.to(cos.dtype)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
    return torch.cat((turned, rest), dim=-1)


def apply_rope(
    positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin_cache: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = cos_sin_cache[positions].to(accumulate_dtype(q.dtype))  # [T, rot_dim]
    cos, sin = rows.unsqueeze(1).chunk(2, dim=-1)  # [T, 1, rot_dim / 2] each
    return _rotate(q, cos, sin), _rotate(k, cos, sin)
