"""A model with as many layers as it has kinds of them: enough to meet every kernel that the whole one launches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from kvasir.layers.attention import Attention


@contextmanager
def few_layers(model: nn.Module) -> Iterator[None]:
    """In here each list named `layers` is cut to its first, its last, and one of each kind between the two.

    What the model computes meanwhile is of no use. The first and the last are always kept, since they do more or less
    than the others: the first adds nothing, and after the last only some tokens are wanted.
    """
    whole = [(module, module.layers) for module in model.modules() if isinstance(_layers(module), nn.ModuleList)]
    for module, layers in whole:
        module.layers = nn.ModuleList([*layers[:1], *_one_of_each(layers[1:-1]), *layers[1:][-1:]])
    try:
        yield
    finally:
        for module, layers in whole:
            module.layers = layers


def _layers(module: nn.Module) -> Any:
    return getattr(module, "layers", None)


def _one_of_each(layers: nn.ModuleList) -> list[nn.Module]:
    kinds: list[tuple[object, ...]] = []
    found = []
    for layer in layers:
        kind = _kind(layer)
        if kind not in kinds:
            kinds.append(kind)
            found.append(layer)
    return found


def _kind(layer: nn.Module) -> tuple[object, ...]:
    """Two layers of one kind launch the same kernels."""
    parameters = tuple((name, p.shape, p.stride(), p.dtype) for name, p in layer.named_parameters())
    attention = tuple(module.impl for module in layer.modules() if isinstance(module, Attention))
    return type(layer), parameters, attention
