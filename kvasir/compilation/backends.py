"""A piece -> a function from a list of tensors to a list of tensors, good for any number of tokens.

eager     the ops one after another, without modules in between; nothing is generated
inductor  torch's compiler: ops between matrix products become one kernel (C++ or Triton). Its code calls our ops
          through torch's dispatcher, so a piece in which there is nothing to fuse is better off with the first
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from kvasir import envs
from kvasir.compilation.errors import CannotCompile
from kvasir.compilation.split import Piece
from kvasir.ops.dispatch import TRACEABLE, untraced

Run = Callable[[list[torch.Tensor]], Sequence[torch.Tensor]]
_SIZES = (2, 3, 16, 1000, 8192)


def eager(piece: Piece, device: torch.device) -> Run:
    """Our ops are called directly, without torch's dispatcher in between."""
    direct = {getattr(torch.ops.kvasir_graph, op).default: untraced(op, device) for op in TRACEABLE}
    module = fx.GraphModule({}, fx.Graph())
    module.graph.output(module.graph.graph_copy(piece.module.graph, {}))
    for node in module.graph.nodes:
        if node.op == "call_function" and node.target in direct:
            node.target = direct[node.target]
    module.recompile()
    forward = module.forward
    return lambda inputs: forward(*inputs)


def has_work_for_inductor(piece: Piece) -> bool:
    """Whether ops of torch's stand there that could become one kernel: between ours are only views."""

    def computes(node: fx.Node) -> bool:
        is_op = isinstance(node.target, torch._ops.OpOverload) and isinstance(node.meta.get("val"), torch.Tensor)
        return is_op and not node.target.is_view and node.target.namespace != "kvasir_graph"

    return sum(map(computes, piece.module.graph.nodes)) > 1


def inductor(piece: Piece, fake_mode: FakeTensorMode, cache: Path, options: Mapping[str, Any]) -> Run:
    """Compiles, or finds what was compiled before under `cache`.

    Args:
        options: torch._inductor.config's, by name.

    Raises:
        CannotCompile: what was made serves some numbers of tokens only.
    """
    with envs.compiler_cache(cache):
        from torch._guards import TracingContext, tracing
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx_inner
        from torch._inductor.decomposition import select_decomp_table
        from torch.fx.experimental.proxy_tensor import make_fx

        inputs = piece.inputs()
        with (
            torch.no_grad(),
            fake_mode,
            tracing(TracingContext(fake_mode)),
            config.patch(fx_graph_cache=True, **options),
        ):
            lowered = make_fx(piece.module, decomposition_table=select_decomp_table(), _allow_non_fake_inputs=True)(
                *inputs
            )
            run = compile_fx_inner(lowered, inputs)
    check_guards(fake_mode.shape_env)
    return run


def close_inductor() -> None:
    """Ends the processes that inductor compiles with."""
    from torch._inductor.async_compile import shutdown_compile_workers

    shutdown_compile_workers()


def check_guards(environment: ShapeEnv) -> None:
    """Nobody looks at guards when a step runs, so whatever a compiler took for granted must hold for all sizes.

    Sizes 0 and 1 are left out: guards tell them apart only to ask for strides that mean nothing there.
    """
    for guard in environment.guards:
        symbols = sorted(guard.expr.free_symbols, key=str)
        for sizes in itertools.product(_SIZES, repeat=len(symbols)):
            if guard.expr.subs(dict(zip(symbols, sizes, strict=True))) == False:  # noqa: E712 (a sympy value)
                raise CannotCompile(f"compiled for some numbers of tokens only ({guard.expr}; {guard.sloc})")
