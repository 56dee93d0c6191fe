"""Token ids to vectors and back: the vocabulary's rows are split over the tensor-parallel workers."""

import torch
from torch import nn
from torch.nn import functional as F

from kvasir.distributed.groups import TensorParallelGroup
from kvasir.distributed.shard import Piece, Span, sharded_parameter, whole
from kvasir.ops import linear


def _vocabulary_rows(
    vocab_size: int, hidden_size: int, dtype: torch.dtype, device: torch.device, group: TensorParallelGroup
) -> tuple[nn.Parameter, Span]:
    """This worker's rows [rows, E]. Every worker has the same number; the last one's surplus rows are zeros."""
    rows = -(-vocab_size // group.world_size)
    start = min(rows * group.rank, vocab_size)
    span = Span(vocab_size, start, min(rows, vocab_size - start))
    pieces = {"": Piece((span, whole(hidden_size)))}
    return sharded_parameter(pieces, dtype, device, num_rows=rows), span


class VocabParallelEmbedding(nn.Module):
    """input_ids [T] -> [T, E]."""

    def __init__(
        self, vocab_size: int, hidden_size: int, dtype: torch.dtype, device: torch.device, group: TensorParallelGroup
    ):
        super().__init__()
        self.group = group
        self.weight, self.span = _vocabulary_rows(vocab_size, hidden_size, dtype, device, group)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self.group.world_size == 1:
            return F.embedding(input_ids, self.weight)
        local = input_ids - self.span.start
        mine = (local >= 0) & (local < self.span.size)  # [T]
        rows = F.embedding(torch.where(mine, local, 0), self.weight)
        return self.group.all_reduce(rows.masked_fill(~mine.unsqueeze(-1), 0))


class LMHead(nn.Module):
    """hidden [R, E] -> logits [R, V]. The caller passes only the rows whose logits it wants.

    Args:
        tied: the embedding whose weight is also this layer's, if any.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        dtype: torch.dtype,
        device: torch.device,
        group: TensorParallelGroup,
        tied: VocabParallelEmbedding | None = None,
    ):
        super().__init__()
        self.group = group
        self.vocab_size = vocab_size
        self.weight = (
            tied.weight if tied is not None else _vocabulary_rows(vocab_size, hidden_size, dtype, device, group)[0]
        )

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = self.group.all_gather(linear(hidden, self.weight))  # [R, V + padding]
        return logits[:, : self.vocab_size]
