"""A tensor-parallel group: who am I, how many are we, and the two collectives that layers need."""

import torch

from kvasir.errors import ConfigError


class TensorParallelGroup:
    """The workers that hold one model's layers in slices. Handed to layers by constructor, never looked up.

    A group of one is the identity: no communication, no process group, no cost.
    """

    def __init__(self, rank: int = 0, world_size: int = 1):
        if world_size != 1:
            raise ConfigError(
                f"tensor_parallel_size is {world_size}, but this version runs a model on one device only: use 1."
            )
        if rank != 0:
            raise ConfigError(f"tensor-parallel rank {rank} is outside of a group of {world_size}.")
        self.rank = rank
        self.world_size = world_size

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of every member's `x`."""
        return x

    def all_gather(self, x: torch.Tensor, dim: int = -1) -> torch.Tensor:
        """Every member's `x`, joined along `dim` in rank order."""
        return x
