"""What happens to queries and keys between the projection and attention: a norm of each head, then rotation.

It is handed to the backend rather than done before it, so that a backend may fuse it with its cache write.
"""

from dataclasses import dataclass

import torch

from kvasir.ops import apply_rope, rms_norm


@dataclass(frozen=True)
class QKTransform:
    """The transformation of one layer in one step.

    Attributes:
        positions: [T] int64.
        cos_sin: [P, rot_dim] float32, as `apply_rope` takes it.
        query_weight, key_weight: [D], head norms; None: there is none.
        eps: of the head norms.
    """

    positions: torch.Tensor
    cos_sin: torch.Tensor
    query_weight: torch.Tensor | None = None
    key_weight: torch.Tensor | None = None
    eps: float = 0.0

    def __call__(self, query: torch.Tensor, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """query [T, H, D], key [T, K, D] -> both, transformed; op by op."""
        if self.query_weight is not None:
            query = rms_norm(query, self.query_weight, self.eps)
        if self.key_weight is not None:
            key = rms_norm(key, self.key_weight, self.eps)
        return apply_rope(self.positions, query, key, self.cos_sin)
