"""Face of the token mask: packed bits -> logits of what they do not allow become -inf."""

import torch

from kvasir.ops.reference import token_mask as reference


def apply_token_masks(logits: torch.Tensor, rows: torch.Tensor, bits: torch.Tensor) -> None:
    """Changes logits in place; nothing waits for the device.

    Args:
        logits: [R, V], any float type.
        rows: [M] int64, different rows of the logits.
        bits: [M, B] uint8 with B * 8 >= V; bit i % 8 of byte i // 8 allows token i.
    """
    reference.apply_token_masks(logits, rows, bits)
