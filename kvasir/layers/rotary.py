"""Rotary positions: the table of cosines and sines, in float32 whatever the model's dtype.

A head's dimensions i and i + rot_dim / 2 form a pair, turned by position * frequency(i).
"""

import math

import torch
from torch import nn

from kvasir.attention.transform import QKTransform
from kvasir.config.rope import RopeConfig
from kvasir.layers.norm import RMSNorm


def inverse_frequencies(rope: RopeConfig, rot_dim: int) -> torch.Tensor:
    """-> [rot_dim / 2] float32, radians per position."""
    wavelengths = rope.theta ** (torch.arange(0, rot_dim, 2, dtype=torch.float32) / rot_dim)
    base = 1.0 / wavelengths
    if rope.kind == "linear":
        return base / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, base)
    if rope.kind == "yarn":
        return _yarn(rope, wavelengths, rot_dim)
    return base


def _llama3(rope: RopeConfig, base: torch.Tensor) -> torch.Tensor:
    """Frequencies that turn often within the trained length stay, slow ones are stretched, between them a ramp."""
    turns = rope.original_max_position_embeddings / (2 * math.pi / base)
    keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    keep = keep.clamp(0.0, 1.0)
    return (1 - keep) * base / rope.factor + keep * base


def _yarn(rope: RopeConfig, wavelengths: torch.Tensor, rot_dim: int) -> torch.Tensor:
    """As llama3, but the ramp is linear in the dimension's index rather than in its frequency."""

    def dimension_that_turns(times: float) -> float:
        length = rope.original_max_position_embeddings / (times * 2 * math.pi)
        return rot_dim * math.log(length) / (2 * math.log(rope.theta))

    low, high = dimension_that_turns(rope.beta_fast), dimension_that_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rot_dim - 1)
    width = (high - low) or 0.001  # a ramp of no width would divide by zero
    stretch = ((torch.arange(rot_dim // 2, dtype=torch.float32) - low) / width).clamp(0.0, 1.0)
    keep = 1 - stretch
    return 1.0 / (rope.factor * wavelengths) * (1 - keep) + 1.0 / wavelengths * keep


def cos_sin_table(
    rope: RopeConfig, rot_dim: int, num_positions: int, device: torch.device | None = None
) -> torch.Tensor:
    """-> [num_positions, rot_dim] float32: the cosines of a position, then its sines."""
    frequencies = inverse_frequencies(rope, rot_dim).to(device)
    if frequencies.is_meta:  # no values, and torch would import half a second of Python to work out the shape
        return frequencies.new_empty(num_positions, 2 * frequencies.shape[0])
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32, device=device), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1) * rope.attention_factor


class RotaryEmbedding(nn.Module):
    """One table for all layers of a model. positions [T] -> what a layer's queries and keys go through."""

    def __init__(self, rope: RopeConfig, head_size: int, num_positions: int, device: torch.device):
        super().__init__()
        rot_dim = int(head_size * rope.partial_rotary_factor)
        self.register_buffer("cos_sin", cos_sin_table(rope, rot_dim, num_positions, device), persistent=False)

    def forward(
        self, positions: torch.Tensor, q_norm: RMSNorm | None = None, k_norm: RMSNorm | None = None
    ) -> QKTransform:
        """Head norms, if there are any, come before the rotation."""
        if q_norm is None or k_norm is None:
            return QKTransform(positions, self.cos_sin)
        return QKTransform(positions, self.cos_sin, q_norm.weight, k_norm.weight, q_norm.eps)
