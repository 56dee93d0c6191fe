"""The contract between a model and everybody else.

A model class has a constructor `(shape: ModelShape, build: ModelBuild)`, the two methods of `TextModel`, and a class
attribute `WEIGHTS`: the rules (`models/weights.py`) by which checkpoint names become its parameters. Its parameters
are made uninitialised on `build.device` by the layers; the loader fills them.

Legend: T tokens of the step, R rows asked for logits, E hidden, V vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch

from kvasir.attention.backend import AttentionBackend
from kvasir.distributed.groups import TensorParallelGroup
from kvasir.models.weights import Rule
from kvasir.quantization.base import LinearMethod
from kvasir.quantization.none import UnquantizedLinearMethod


def unquantized(prefix: str) -> LinearMethod:
    return UnquantizedLinearMethod()


@dataclass(frozen=True)
class ModelBuild:
    """With what a model is built; what it *is* stands in ModelShape.

    Attributes:
        linear_method: module name ("model.layers.0.mlp.down_proj") -> how that projection is stored.
        max_model_len: positions to prepare for; None: all the model was made for.
    """

    dtype: torch.dtype
    device: torch.device
    attention_backend: type[AttentionBackend]
    group: TensorParallelGroup = field(default_factory=TensorParallelGroup)
    linear_method: Callable[[str], LinearMethod] = unquantized
    max_model_len: int | None = None


class TextModel(Protocol):
    WEIGHTS: ClassVar[tuple[Rule, ...]]

    def forward(
        self, input_ids: torch.Tensor, positions: torch.Tensor, last: torch.Tensor | None = None
    ) -> torch.Tensor:
        """input_ids [T], positions [T] -> hidden [T, E]; needs an entered forward context.

        Args:
            last: [B] int64, the only tokens whose hidden states are wanted, -> [B, E]. They are the last ones of the
                rows that `AttentionBatch.last_rows` names.
        """
        ...

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [R, E] -> [R, V] in the model's dtype."""
        ...
