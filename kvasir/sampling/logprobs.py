"""Log-probabilities: chosen token, its rank and the best k, made on the device and read on the host later."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kvasir.messages import TokenLogprobs

_CHUNK_ELEMENTS = 1 << 24  # 64 MiB of float32 at a time


@dataclass(frozen=True)
class LogprobTensors:
    """n rows on the device.

    Attributes:
        rows: the rows of the step (or of the prompt) that these belong to, on the host.
        num_logprobs: k of each row; columns beyond it are not the row's.
        token_ids, values: [n, k + 1], the chosen token first, then the best k in falling order.
        ranks: [n], the chosen token's place: tokens strictly above it, plus one.
    """

    rows: list[int]
    num_logprobs: list[int]
    token_ids: torch.Tensor
    values: torch.Tensor
    ranks: torch.Tensor

    def entries(self) -> list[TokenLogprobs]:
        """On the host; waits for the device when the tensors are still there."""
        ids, values, ranks = self.token_ids.tolist(), self.values.tolist(), self.ranks.tolist()
        return [
            TokenLogprobs(token_ids=i[: k + 1], logprobs=v[: k + 1], rank=rank)
            for k, i, v, rank in zip(self.num_logprobs, ids, values, ranks, strict=True)
        ]


def ranked(
    logits: torch.Tensor, targets: torch.Tensor, k: int, normalise: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """logits [n, V], targets [n] -> token_ids [n, k + 1] int64, values [n, k + 1] float32, ranks [n] int64.

    Args:
        normalise: values are log-probabilities; else they are the logits themselves.
    """
    logits = logits.float()
    chosen = logits.gather(1, targets[:, None])  # [n, 1]
    ranks = (logits > chosen).sum(dim=1) + 1
    top = logits.topk(k, dim=1)
    values = torch.cat([chosen, top.values], dim=1)
    if normalise:
        values = values - logits.logsumexp(dim=1, keepdim=True)
    return torch.cat([targets[:, None], top.indices], dim=1), values, ranks


def prompt_logprobs(
    logits: torch.Tensor | Callable[[int, int], torch.Tensor], targets: torch.Tensor, k: int, vocab_size: int
) -> LogprobTensors:
    """Log-probabilities of given tokens, a bounded number of rows at a time.

    Args:
        logits: [T, V], or a function (begin, end) -> [end - begin, V] that makes them when they are needed, so that
            they never exist all at once.
        targets: [T] int64, the token that follows each row.
        k: best tokens wanted; -1 = the whole vocabulary.
    """
    count = targets.shape[0]
    k = vocab_size if k < 0 else min(k, vocab_size)
    step = max(1, _CHUNK_ELEMENTS // vocab_size)
    parts = []
    for begin in range(0, count, step):
        end = min(begin + step, count)
        chunk = logits[begin:end] if isinstance(logits, torch.Tensor) else logits(begin, end)
        parts.append(ranked(chunk, targets[begin:end], k))
    if not parts:
        empty = targets.new_zeros(0, k + 1)
        parts = [(empty, empty.float(), targets.new_zeros(0))]
    ids, values, ranks = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return LogprobTensors(list(range(count)), [k] * count, ids, values, ranks)
