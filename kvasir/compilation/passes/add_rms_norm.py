"""A sum that is normalised next becomes one `kvasir_graph.add_rms_norm`, which gives the norm and the sum."""

from typing import Any

import torch
from torch import fx

from kvasir.compilation.passes.match import aten, dtype_of, insert, is_call, is_tensor, pick, replace, shape_of


def fuse_add_rms_norm(graph: fx.Graph) -> int:
    """Returns how many sums and norms became one op."""
    found = 0
    for norm in list(graph.find_nodes(op="call_function", target=torch.ops.kvasir_graph.rms_norm.default)):
        total, weight, eps = norm.args
        if not _is_residual_sum(total):
            continue
        # At the sum's place, since others may read the sum before the norm comes, unless the weight is not there yet.
        place = total if weight < total else norm
        if any(user < place for user in total.users):
            continue
        x, residual = total.args[:2]
        both = insert(graph, place, torch.ops.kvasir_graph.add_rms_norm.default, x, residual, weight, eps)
        normed, summed = pick(graph, place, both, 0), pick(graph, place, both, 1)
        replace(norm, normed)
        replace(total, summed)
        found += 1
    graph.eliminate_dead_code()
    return found


def _is_residual_sum(node: Any) -> bool:
    """x + residual, of one shape [T, E] and type, without a factor."""
    if not is_call(node, aten.add.Tensor) or node.kwargs or not all(is_tensor(a) for a in node.args):
        return False
    x, residual = node.args
    same = shape_of(x) == shape_of(residual) == shape_of(node) and len(shape_of(node)) == 2
    return same and dtype_of(x) == dtype_of(residual) == dtype_of(node)
