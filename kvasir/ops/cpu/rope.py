"""Rotary position embedding on CPU: q and k turn in one pass, since small steps cost calls, not arithmetic."""

import torch


def apply_rope(
    positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor, cos_sin_cache: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    half = cos_sin_cache.shape[-1] // 2
    num_heads = q.shape[1]
    both = torch.cat((q, k), dim=1)  # [T, H + K, D]
    rows = cos_sin_cache.index_select(0, positions).unsqueeze(1)  # [T, 1, rot_dim]
    cos, sin = rows[..., :half], rows[..., half:]
    first, second = both[..., :half], both[..., half : 2 * half]
    turned = first * cos - second * sin  # float32: the tables widen 16-bit heads
    both[..., half : 2 * half] = second * cos + first * sin
    both[..., :half] = turned
    return both[:, :num_heads], both[:, num_heads:]
