"""A few words for reading a graph: is this node that op, on that operand, seen by nobody else?"""

import operator
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


def is_call(node: Any, *targets: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def used_once(node: fx.Node) -> bool:
    """Fused away, a node must not be missed by anybody."""
    return len(node.users) == 1


def shape_of(node: Any) -> torch.Size:
    return node.meta["val"].shape


def dtype_of(node: Any) -> torch.dtype:
    return node.meta["val"].dtype


def either_way(node: fx.Node) -> list[tuple[Any, Any]]:
    """Both orders of the operands of a sum or product."""
    first, second = node.args[:2]
    return [(first, second), (second, first)]


def is_tensor(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), torch.Tensor)


def behind_conversion(node: Any) -> Any:
    """What was converted to another type and nothing else, or the node itself."""
    if is_call(node, aten._to_copy.default) and set(node.kwargs) == {"dtype"}:
        return node.args[0]
    return node


def insert(graph: fx.Graph, before: fx.Node, target: Any, *arguments: Any) -> fx.Node:
    """A call of one of our ops, with the fake result that belongs to it."""
    with graph.inserting_before(before):
        node = graph.call_function(target, arguments)
    values = fx.map_arg(arguments, lambda n: n.meta["val"])
    node.meta["val"] = target(*values)
    return node


def pick(graph: fx.Graph, before: fx.Node, node: fx.Node, index: int) -> fx.Node:
    """One of the results of a node that has several."""
    with graph.inserting_before(before):
        item = graph.call_function(operator.getitem, (node, index))
    item.meta["val"] = node.meta["val"][index]
    return item


def replace(old: fx.Node, new: fx.Node) -> None:
    old.replace_all_uses_with(new)
    old.graph.erase_node(old)
