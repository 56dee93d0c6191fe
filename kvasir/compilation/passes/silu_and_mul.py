"""`silu(gate) * up`, where gate and up are the two halves of one tensor, becomes one `kvasir_graph.silu_and_mul`."""

import operator
from typing import Any

import torch
from torch import fx

from kvasir.compilation.passes.match import aten, either_way, insert, is_call, is_tensor, replace, shape_of, used_once


def fuse_silu_and_mul(graph: fx.Graph) -> int:
    """Returns how many gates became one op."""
    found = 0
    for node in list(graph.find_nodes(op="call_function", target=aten.mul.Tensor)):
        for activated, up in either_way(node):
            whole = _halves_of(activated, up)
            if whole is not None:
                replace(node, insert(graph, node, torch.ops.kvasir_graph.silu_and_mul.default, whole))
                found += 1
                break
    graph.eliminate_dead_code()
    return found


def _halves_of(activated: Any, up: Any) -> fx.Node | None:
    """The tensor [..., 2 * I] whose first half is activated and whose second half is `up`."""
    if not is_call(activated, aten.silu.default) or not used_once(activated):
        return None
    first, second = _half(activated.args[0]), _half(up)
    if first is None or second is None or first[0] is not second[0] or (first[1], second[1]) != (0, 1):
        return None
    return first[0]


def _half(node: Any) -> tuple[fx.Node, int] | None:
    """(tensor, 0 or 1): which half of which tensor's last axis this is."""
    if is_call(node, operator.getitem) and is_call(node.args[0], aten.split.Tensor, aten.split_with_sizes.default):
        whole, sizes, *dim = node.args[0].args
        size = shape_of(whole)[-1]
        two = sizes == size // 2 if isinstance(sizes, int) else list(sizes) == [size // 2] * 2
        return (whole, node.args[1]) if two and size % 2 == 0 and _is_last(dim, whole) else None
    if is_call(node, aten.slice.Tensor) and is_tensor(node.args[0]):
        whole, dim, start, *end = node.args
        size = shape_of(whole)[-1]
        if size % 2 or not _is_last([dim], whole):
            return None
        stop = min(end[0], size) if end else size
        if (start, stop) in ((0, size // 2), (size // 2, size)) and len(end) < 2:
            return whole, int(start != 0)
    return None


def _is_last(dim: list[int], whole: fx.Node) -> bool:
    return bool(dim) and dim[0] in (-1, len(shape_of(whole)) - 1)
