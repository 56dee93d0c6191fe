"""`weight * (x * rsqrt(mean(x ** 2) + eps))`, as models write it, becomes one `kvasir_graph.rms_norm`.

Wide or not: where x has 16 bits, the norm may be computed in float32 and rounded before the weight, as our op does it.
A norm that is rounded after the weight computes something else and stays.
"""

from typing import Any

import torch
from torch import fx

from kvasir.compilation.passes.match import (
    aten,
    behind_conversion,
    dtype_of,
    either_way,
    insert,
    is_call,
    is_tensor,
    replace,
    shape_of,
    used_once,
)


def fuse_rms_norm(graph: fx.Graph) -> int:
    """Returns how many norms became one op."""
    found = 0
    for node in list(graph.find_nodes(op="call_function", target=aten.mul.Tensor)):
        for weight, normed in either_way(node):
            parts = _match(node, weight, normed)
            if parts is not None:
                x, eps = parts
                replace(node, insert(graph, node, torch.ops.kvasir_graph.rms_norm.default, x, weight, eps))
                found += 1
                break
    graph.eliminate_dead_code()
    return found


def _match(node: fx.Node, weight: Any, normed: Any) -> tuple[fx.Node, float] | None:
    if not is_tensor(weight) or not is_tensor(normed) or len(shape_of(weight)) != 1:
        return None
    narrow = normed  # the norm as it meets the weight
    if behind_conversion(normed) is not normed and used_once(normed):
        normed = behind_conversion(normed)
    if not is_call(normed, aten.mul.Tensor) or not used_once(normed):
        return None
    for wide, scale in either_way(normed):
        eps = _epsilon(scale, wide)
        if eps is None:
            continue
        x = behind_conversion(wide)  # in its own type
        same_types = dtype_of(x) == dtype_of(narrow) == dtype_of(weight) == dtype_of(node)
        accurate = dtype_of(wide) == torch.promote_types(dtype_of(x), torch.float32)
        if same_types and accurate and shape_of(weight)[0] == shape_of(x)[-1] and shape_of(node) == shape_of(x):
            return x, eps
    return None


def _epsilon(scale: Any, x: Any) -> float | None:
    """eps, if `scale` is rsqrt(mean(x ** 2 over the last axis) + eps)."""
    if not is_tensor(x) or not is_call(scale, aten.rsqrt.default) or not used_once(scale):
        return None
    total = scale.args[0]
    if not is_call(total, aten.add.Tensor, aten.add.Scalar) or not used_once(total) or total.kwargs:
        return None
    mean, eps = total.args[:2]
    if not isinstance(eps, float) or not is_call(mean, aten.mean.dim) or not used_once(mean):
        return None
    square, dims, *keep = mean.args
    last = len(shape_of(x)) - 1
    if list(dims) not in ([-1], [last]) or keep != [True] or not used_once(square):
        return None
    is_square = is_call(square, aten.pow.Tensor_Scalar) and square.args == (x, 2)
    is_square |= is_call(square, aten.mul.Tensor) and square.args == (x, x)
    return eps if is_square else None
