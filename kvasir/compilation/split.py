"""A traced graph, cut at its opaque calls into pieces. Pieces that are equal are one, so a model of any depth has few.

A piece is a graph of its own: tensors in, tensors out. The number of tokens is no input of it; where it needs it, it
asks one of its inputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from kvasir.compilation.errors import CannotCompile
from kvasir.compilation.trace import OPAQUE, OpaqueCall, Traced


@dataclass(eq=False)
class Piece:
    """One graph, run `uses` times in the passes it is part of, each time with other weights. Compared by identity."""

    module: fx.GraphModule
    uses: int = 0

    def inputs(self) -> list[torch.Tensor]:
        """Fake tensors of the shapes it is called with."""
        return [node.meta["val"] for node in self.module.graph.nodes if node.op == "placeholder"]


@dataclass(frozen=True)
class Step:
    """`values[inputs] -> values[outputs]`, by a piece or by an opaque call; afterwards nobody reads `dead`."""

    work: Piece | OpaqueCall
    inputs: list[int]
    outputs: list[int]
    dead: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """A forward pass as a list of steps over numbered values.

    Attributes:
        constants: number -> parameter (or another tensor the model holds).
        arguments: numbers of input_ids, positions and, where there is one, last.
        result: number of the hidden states.
    """

    steps: list[Step]
    constants: dict[int, torch.Tensor]
    arguments: list[int]
    result: int
    num_values: int


def split(traced: Traced, pieces: dict[str, Piece]) -> Plan:
    """Cuts a trace into its plan.

    Args:
        pieces: those that there are already, by their text; new ones are added.

    Raises:
        CannotCompile: a piece needs a size that none of its inputs has.
    """
    graph = traced.module.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    number = {node: i for i, node in enumerate(placeholders)}
    constants = dict(enumerate(traced.parameters))
    for node in graph.nodes:
        if node.op == "get_attr":  # a tensor that is no parameter
            number[node] = len(number)
            constants[number[node]] = _attribute(traced.module, node.target)
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    result = _only_result(output)

    steps: list[Step] = []
    run: list[fx.Node] = []

    def close() -> None:
        """Makes a piece of the nodes that have come together."""
        if run:
            steps.append(_piece_step(run, number, pieces))
            run.clear()

    for node in graph.nodes:
        if node.op != "call_function" or _is_size(node):
            continue
        if node.target is not OPAQUE:
            run.append(node)
            continue
        close()
        number[node] = len(number)
        inputs, _, call = node.args
        steps.append(Step(traced.calls[call], [number[n] for n in inputs], [number[node]]))
    close()
    _mark_dead(steps, {*constants, number[result]})
    arguments = [number[node] for node in placeholders[len(traced.parameters) :]]
    return Plan(steps, constants, arguments, number[result], len(number))


def _piece_step(run: list[fx.Node], number: dict[fx.Node, int], pieces: dict[str, Piece]) -> Step:
    inside = set(run)
    inputs = list(dict.fromkeys(n for node in run for n in node.all_input_nodes if n not in inside and not _is_size(n)))
    outputs = [node for node in run if any(user not in inside for user in node.users)]
    module = _module_of(run, inputs, outputs)
    piece = pieces.setdefault(_text(module), Piece(module))
    piece.uses += 1
    for node in outputs:
        number[node] = len(number)
    return Step(piece, [number[n] for n in inputs], [number[n] for n in outputs])


def _module_of(run: list[fx.Node], inputs: list[fx.Node], outputs: list[fx.Node]) -> fx.GraphModule:
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for i, node in enumerate(inputs):
        copied[node] = graph.placeholder(f"input_{i}")
        copied[node].meta = {"val": node.meta["val"]}

    def copy(node: fx.Node) -> fx.Node:
        if node not in copied:
            copied[node] = (
                _copy_size(node, graph, inputs, copied, copy) if _is_size(node) else graph.node_copy(node, copy)
            )
        return copied[node]

    for node in run:
        copy(node)
    graph.output(tuple(copied[node] for node in outputs))
    return fx.GraphModule({}, graph)


def _copy_size(
    node: fx.Node,
    graph: fx.Graph,
    inputs: list[fx.Node],
    copied: dict[fx.Node, fx.Node],
    copy: Callable[[fx.Node], fx.Node],
) -> fx.Node:
    """A size is asked of an input of the piece that has it, or computed again from sizes."""
    if node.target is not torch.ops.aten.sym_size.int:
        return graph.node_copy(node, copy)
    wanted = node.meta["val"].node.expr
    for tensor in inputs:
        for dim, size in enumerate(tensor.meta["val"].shape):
            if isinstance(size, torch.SymInt) and size.node.expr == wanted:
                found = graph.call_function(torch.ops.aten.sym_size.int, (copied[tensor], dim))
                found.meta = dict(node.meta)
                return found
    raise CannotCompile(f"no input of a piece has the size {wanted}")


def _text(module: fx.GraphModule) -> str:
    """Equal for two pieces exactly if they compute the same from inputs of the same kind."""
    names: dict[fx.Node, str] = {}
    lines = []
    for node in module.graph.nodes:
        names[node] = f"%{len(names)}"
        shown = fx.map_arg((node.args, node.kwargs), lambda n: names[n])
        kind = _kind(node.meta["val"]) if node.op == "placeholder" else ""
        lines.append(f"{node.op} {node.target if node.op == 'call_function' else ''} {shown} {kind}")
    return "\n".join(lines)


def _kind(value: torch.Tensor) -> str:
    return f"{value.dtype} {value.device} {tuple(value.shape)} {value.stride()}"


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool))


def _only_result(output: fx.Node) -> fx.Node:
    found = output.all_input_nodes
    if len(found) != 1:
        raise CannotCompile(f"forward gives {len(found)} tensors where one is wanted")
    return found[0]


def _attribute(module: torch.nn.Module, path: str) -> Any:
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _mark_dead(steps: list[Step], kept: set[int]) -> None:
    """Each value goes as soon as its last reader has run, so that its memory can be used again."""
    seen = set(kept)
    for step in reversed(steps):
        step.dead.extend(sorted({*step.inputs, *step.outputs} - seen))
        seen.update(step.dead)
