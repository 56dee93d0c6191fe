"""SEAM: a prefill provider computes rows of several query tokens in our own kernel's stead, with somebody else's.

Rows come by rising query length, so the rows that a provider takes are the last ones of the step; our kernel does what
is left. A provider that fails is not asked again: the step, and all after it, are our kernel's.

Legend: see `backend.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import torch

from kvasir.attention.backend import AttentionBatch
from kvasir.logger import get_logger

logger = get_logger(__name__)


@dataclass(frozen=True)
class LastRows:
    """The last rows of a step. `first_token`: where they begin; `lens`: (context, query) of each."""

    first_row: int
    first_token: int
    lens: list[tuple[int, int]]

    @classmethod
    def of(cls, batch: AttentionBatch, min_query: int) -> "LastRows | None":
        """Those of `min_query` tokens or more; None when there are none, or when the step is a captured one, whose
        lengths the host does not know."""
        lens = list(zip(batch.context_lens, batch.query_lens, strict=True))
        first = len(lens)
        while first and lens[first - 1][1] >= min_query:
            first -= 1
        if first == len(lens) or batch.num_decodes is None:
            return None
        return cls(first, sum(query for _, query in lens[:first]), lens[first:])

    @property
    def num_tokens(self) -> int:
        return sum(query for _, query in self.lens)


class PrefillProvider(Protocol):
    """One per worker.

    Attributes:
        min_query: query tokens from which a row is the provider's.
        margin: tokens by which the query tensor must be longer than the step, at both ends.
    """

    name: str
    min_query: int
    margin: int

    def plan(self, batch: AttentionBatch, rows: LastRows) -> Any:
        """What all layers of the step need; raises when it cannot."""
        ...

    def attend(
        self,
        query: torch.Tensor,  # [margin + T + margin, H, D]
        key_cache: torch.Tensor,  # [N, S, K, D], the step's own keys included
        value_cache: torch.Tensor,
        batch: AttentionBatch,
        rows: LastRows,
        plan: Any,
        scale: float,
        output: torch.Tensor,  # [T, H, D]
    ) -> None:
        """Fills the rows' part of `output`; raises when it cannot."""
        ...


class Prefill:
    """The provider of a worker, and whether it still is one."""

    def __init__(self, provider: PrefillProvider | None):
        self.provider = provider

    def take(self, batch: AttentionBatch) -> "ProvidedRows | None":
        provider = self.provider
        rows = None if provider is None else LastRows.of(batch, provider.min_query)
        if provider is None or rows is None:
            return None
        try:
            return ProvidedRows(self, provider, rows, provider.plan(batch, rows))
        except Exception as error:  # whatever somebody else's library may raise
            self.give_up(error)
            return None

    def give_up(self, error: Exception) -> None:
        if isinstance(error, torch.OutOfMemoryError) or self.provider is None:
            raise error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        logger.warning("%s does not take prompts here, our own kernel does: %s", self.provider.name, reason)
        self.provider = None


@dataclass(frozen=True)
class ProvidedRows:
    """The rows of one step that a provider does."""

    owner: Prefill
    provider: PrefillProvider
    rows: LastRows
    plan: Any

    def attend(
        self,
        query: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        batch: AttentionBatch,
        scale: float,
        output: torch.Tensor,
    ) -> bool:
        """As `PrefillProvider.attend`, but False if the provider would not: then all rows are still to be done."""
        if self.owner.provider is None:  # it failed in an earlier layer
            return False
        try:
            self.provider.attend(query, key_cache, value_cache, batch, self.rows, self.plan, scale, output)
        except Exception as error:  # whatever somebody else's library may raise
            self.owner.give_up(error)
            return False
        return True


def not_installed(module: str, distribution: str, extra: str) -> str | None:
    """None if `module` can be found (it is not imported), else the sentence that says what to install."""
    try:
        found = find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing, or is another one of that name
        found = False
    return None if found else f"{distribution} is not installed: pip install 'kvasir-llm[{extra}]'"


def refuses_shape(
    head_size: int, head_sizes: Sequence[int], dtype: torch.dtype, sliding_window: bool, soft_cap: bool
) -> str | None:
    """What all providers have in common: 16 bits, some head sizes, and neither a window nor a soft cap."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"dtype {dtype} is not bfloat16 or float16"
    if head_size not in head_sizes:
        return f"head size {head_size} is none of {', '.join(map(str, head_sizes))}"
    if sliding_window or soft_cap:
        return "models with a sliding window or a soft cap are left to our own kernel"
    return None
