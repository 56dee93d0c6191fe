"""Specification of the token mask, in plain torch."""

import torch

ROWS_AT_ONCE = 32
"""Bounds the room that unpacked bits take: one byte per token of so many rows."""


def apply_token_masks(logits: torch.Tensor, rows: torch.Tensor, bits: torch.Tensor) -> None:
    """logits [R, V], rows [M] int64, bits [M, B] uint8; logits of tokens without a bit become -inf, in place."""
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    for some, packed in zip(rows.split(ROWS_AT_ONCE), bits.split(ROWS_AT_ONCE), strict=True):
        masked = (packed[:, :, None] >> places & 1).flatten(1)[:, : logits.shape[1]] == 0  # [m, V]
        logits[some] = logits[some].masked_fill(masked, float("-inf"))
