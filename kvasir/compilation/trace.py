"""A model's forward pass as one graph of torch's own ops, with the number of tokens left open.

The model runs once on fake tensors, which have shapes and no data, and every op it calls is written down. Layers that
read the forward context (attention) are not looked into: each becomes one `kvasir_graph.opaque` node, and the context
is never entered.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental import _config as symbol_config
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from kvasir.compilation.errors import CannotCompile
from kvasir.ops.dispatch import traced_ops

_HINTS = 37, 13  # tokens, and those wanted: numbers that no model has as sizes of its own
_fragment = torch.library.Library("kvasir_graph", "FRAGMENT")
_fragment.define("opaque(Tensor[] inputs, SymInt[] shape, int call) -> Tensor")
torch.library.register_fake(
    "kvasir_graph::opaque", lambda inputs, shape, call: inputs[0].new_empty(shape), lib=_fragment
)
OPAQUE = torch.ops.kvasir_graph.opaque.default


class OpaqueLayer(Protocol):
    """A layer that is not looked into. Its first tensor says type and device of its result."""

    def forward(self, *arguments: Any) -> torch.Tensor: ...

    def result_shape(self, *arguments: Any) -> Sequence[int]: ...


@dataclass(frozen=True)
class OpaqueCall:
    """One call of a layer that is not looked into.

    Attributes:
        arguments: as they were, with an `_Input` in place of each tensor.
    """

    layer: OpaqueLayer
    arguments: tuple[Any, ...]

    def __call__(self, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor]:
        return (self.layer.forward(*(_with_tensors(a, inputs) for a in self.arguments)).contiguous(),)


@dataclass(frozen=True)
class Traced:
    """What tracing gave.

    Attributes:
        module: the graph; its placeholders are `parameters`, then input_ids, positions and, where asked for, last.
        parameters: and buffers, in the order of the placeholders.
        calls: what the `call` of each opaque node means.
    """

    module: torch.fx.GraphModule
    parameters: list[torch.Tensor]
    calls: list[OpaqueCall]


@dataclass(frozen=True)
class _Input:
    index: int


class Tracer:
    """Traces a model's forward pass in its two forms, over the same fake tensors, so that the graphs can share pieces.

    Args:
        opaque_layers: those that are not looked into.
        opaque_ops: our ops that stay one node each.

    Attributes:
        fake_mode: in which the graphs' fake tensors live; numbers of tokens are symbols in it, and 0 and 1 are numbers
            as others are.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        opaque_layers: Sequence[OpaqueLayer],
        opaque_ops: Collection[str],
        device: torch.device,
    ):
        self._model = model
        self._opaque_layers = opaque_layers
        self._opaque_ops = opaque_ops
        self._named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._shape_env = ShapeEnv(specialize_zero_one=False, duck_shape=False)
        self.fake_mode = FakeTensorMode(shape_env=self._shape_env, allow_non_fake_inputs=True)
        ids, self._last = (
            self.fake_mode.from_tensor(torch.zeros(n, dtype=torch.int64, device=device), symbolic_context=_open_size())
            for n in _HINTS
        )
        with self.fake_mode:
            self._inputs = [ids, torch.empty(ids.shape, dtype=torch.int64, device=device)]
            self._parameters = [self.fake_mode.from_tensor(t, static_shapes=True) for t in self._named.values()]

    def trace(self, with_last: bool) -> Traced:
        """Of `model(input_ids [T], positions [T]) -> hidden [T, E]`; `with_last`: `(..., last [B]) -> hidden [B, E]`.

        Raises:
            CannotCompile: the code asks for the number of tokens to decide what to do, or writes in place.
        """
        calls: list[OpaqueCall] = []

        def run(parameters: list[torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
            named = dict(zip(self._named, parameters, strict=True))
            return torch.func.functional_call(self._model, named, inputs)

        with symbol_config.patch(backed_size_oblivious=True), torch.no_grad(), self.fake_mode:
            inputs = [*self._inputs, self._last] if with_last else self._inputs
            with traced_ops(self._opaque_ops), _stand_ins(self._opaque_layers, calls):
                functional = torch.func.functionalize(run, remove="mutations")
                module = make_fx(functional, _allow_non_fake_inputs=True)(self._parameters, *inputs)
        _check(module, self._shape_env)
        return Traced(module, list(self._named.values()), calls)


def _open_size() -> StatelessSymbolicContext:
    return StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC], constraint_sizes=[None])


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
def _stand_ins(layers: Sequence[OpaqueLayer], calls: list[OpaqueCall]) -> Iterator[None]:
    """In here, a call of one of the layers writes down an opaque node."""

    def stand_in(layer: OpaqueLayer) -> Callable[..., torch.Tensor]:
        def forward(*arguments: Any) -> torch.Tensor:
            inputs: list[torch.Tensor] = []
            calls.append(OpaqueCall(layer, tuple(_without_tensors(a, inputs) for a in arguments)))
            return OPAQUE(inputs, layer.result_shape(*arguments), len(calls) - 1)

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
