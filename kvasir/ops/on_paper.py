"""Tensors without memory, without what torch imports to work out some of their shapes.

Torch describes most operations on its "meta" device in C++, but some in Python, which loads half a second of modules
(more where Python has not compiled them): longer than all that a worker does on paper. For these the shape is enough.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_Tensor = torch.Tensor


def _like(tensor: torch.Tensor, **how: Any) -> torch.Tensor:
    return torch.zeros(tensor.shape, **{"dtype": tensor.dtype, "device": tensor.device, **how})


def _differences(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty(tensor.shape[0] - 1)


def _embedding(index: torch.Tensor, table: torch.Tensor, **_: Any) -> torch.Tensor:
    return _rows(table, index)


def _rows(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return table.new_empty(*index.shape, *table.shape[1:])


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _written(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
    return tensor


_SHAPES: dict[Callable[..., Any], Callable[..., Any]] = {
    functional.linear: _product,
    functional.embedding: _embedding,
    torch.empty_like: _like,
    torch.zeros_like: _like,
    _Tensor.diff: _differences,
    **dict.fromkeys((_Tensor.index_copy_, _Tensor.index_put_, _Tensor.index_add_, _Tensor.__setitem__), _written),
}


class ShapesOnly(TorchFunctionMode):
    """In here common operations on tensors without memory import nothing; their arguments must fit each other."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Iterable[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.arange and torch.device(kwargs.get("device") or "cpu").type == "meta":
            return function(*args, **{**kwargs, "device": "cpu"}).to("meta")
        if not (args and isinstance(args[0], _Tensor) and args[0].is_meta):
            return function(*args, **kwargs)
        if function is _Tensor.__getitem__ and _is_list_of_rows(args[1]):
            return _rows(*args)
        return _SHAPES.get(function, function)(*args, **kwargs)


def _is_list_of_rows(index: Any) -> bool:
    return isinstance(index, _Tensor) and index.dtype in (torch.int32, torch.int64)
