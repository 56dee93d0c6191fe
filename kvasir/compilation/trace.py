"""A model's forward pass as one graph of torch's own ops, with the number of tokens left open.

The model runs once on fake tensors, which have shapes and no data, and every op it calls is written down. Layers that
read the forward context (attention) are not looked into: each becomes one `kvasir.opaque` node, and the context is
never entered.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config as symbol_config
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from kvasir.compilation.errors import CannotCompile
from kvasir.ops.dispatch import traced_ops

_HINT = 37  # tokens of the traced step: a number that no model has as a size of its own
_fragment = torch.library.Library("kvasir", "FRAGMENT")
_fragment.define("opaque(Tensor[] inputs, int call) -> Tensor")
torch.library.register_fake("kvasir::opaque", lambda inputs, call: inputs[0].new_empty(inputs[0].shape), lib=_fragment)
OPAQUE = torch.ops.kvasir.opaque.default


@dataclass(frozen=True)
class OpaqueCall:
    """One call of a layer that is not looked into; its result has the shape of its first tensor.

    Attributes:
        arguments: as they were, with an `_Input` in place of each tensor.
    """

    layer: torch.nn.Module
    arguments: tuple[Any, ...]

    def __call__(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor]:
        return (self.layer.forward(*(_with_tensors(a, inputs) for a in self.arguments)).contiguous(),)


@dataclass(frozen=True)
class Traced:
    """What tracing gave.

    Attributes:
        module: the graph; its placeholders are `parameters`, then input_ids and positions.
        parameters: name and tensor (parameters and buffers), in the order of the placeholders.
        calls: what the `call` of each opaque node means.
        fake_mode: in which shapes of the graph can be worked with.
    """

    module: torch.fx.GraphModule
    parameters: list[torch.Tensor]
    calls: list[OpaqueCall]
    fake_mode: FakeTensorMode


@dataclass(frozen=True)
class _Input:
    index: int


def trace(
    model: torch.nn.Module, opaque_layers: Sequence[torch.nn.Module], opaque_ops: Sequence[str], device: torch.device
) -> Traced:
    """Traces `model(input_ids [T], positions [T]) -> hidden [T, E]`.

    Raises:
        CannotCompile: the code asks for the number of tokens to decide what to do.
    """
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    environment = ShapeEnv(specialize_zero_one=False, duck_shape=False)
    mode = FakeTensorMode(shape_env=environment, allow_non_fake_inputs=True)
    calls: list[OpaqueCall] = []

    def run(parameters: list[torch.Tensor], ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, dict(zip(named, parameters, strict=True)), (ids, positions))

    example = torch.zeros(_HINT, dtype=torch.int64, device=device)
    open_size = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC], constraint_sizes=[None])
    ids = mode.from_tensor(example, symbolic_context=open_size)
    with symbol_config.patch(backed_size_oblivious=True), torch.no_grad(), mode:
        positions = torch.empty(ids.shape, dtype=torch.int64, device=device)  # the same symbol
        parameters = [mode.from_tensor(tensor, static_shapes=True) for tensor in named.values()]
        with traced_ops(opaque_ops), _stand_ins(opaque_layers, calls):
            module = make_fx(torch.func.functionalize(run, remove="mutations"), _allow_non_fake_inputs=True)(
                parameters, ids, positions
            )
    _check(module, environment)
    return Traced(module, list(named.values()), calls, mode)


def _check(module: torch.fx.GraphModule, environment: ShapeEnv) -> None:
    """One graph must serve any number of tokens, and what it computes must be all that happens."""
    if environment.guards:
        guard = environment.guards[0]
        raise CannotCompile(f"the model's code depends on the number of tokens ({guard.expr}; {guard.sloc})")
    for node in module.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if schema is not None and schema.is_mutable:
            raise CannotCompile(f"the model writes in place ({node.target})")


@contextmanager
def _stand_ins(layers: Sequence[torch.nn.Module], calls: list[OpaqueCall]) -> Iterator[None]:
    """In here, a call of one of the layers writes down an opaque node."""

    def stand_in(layer: torch.nn.Module) -> Callable[..., torch.Tensor]:
        def forward(*arguments: Any) -> torch.Tensor:
            inputs: list[torch.Tensor] = []
            calls.append(OpaqueCall(layer, tuple(_without_tensors(a, inputs) for a in arguments)))
            return OPAQUE(inputs, len(calls) - 1)

        return forward

    try:
        for layer in layers:
            layer.forward = stand_in(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("forward", None)


def _without_tensors(value: Any, found: list[torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        found.append(value)
        return _Input(len(found) - 1)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(
            value, **{f.name: _without_tensors(getattr(value, f.name), found) for f in dataclasses.fields(value)}
        )
    return value


def _with_tensors(value: Any, inputs: Sequence[torch.Tensor]) -> Any:
    if isinstance(value, _Input):
        return inputs[value.index]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(*(_with_tensors(getattr(value, f.name), inputs) for f in dataclasses.fields(value)))
    return value
