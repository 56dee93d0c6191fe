"""The one table of passes, and what runs them."""

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import fx

from kvasir.compilation.passes.add_rms_norm import fuse_add_rms_norm
from kvasir.compilation.passes.rms_norm import fuse_rms_norm
from kvasir.compilation.passes.silu_and_mul import fuse_silu_and_mul


@dataclass(frozen=True)
class Pass:
    """A pass changes a graph in place and says how often it found its pattern.

    Attributes:
        op: what it puts in; the pass runs where that op is wanted as one node.
    """

    name: str
    op: str
    run: Callable[[fx.Graph], int]


PASSES: tuple[Pass, ...] = (
    Pass("fuse_rms_norm", "rms_norm", fuse_rms_norm),
    Pass("fuse_add_rms_norm", "add_rms_norm", fuse_add_rms_norm),  # after the norms are one node each
    Pass("fuse_silu_and_mul", "silu_and_mul", fuse_silu_and_mul),
)


class PassManager:
    """Runs the passes of the table in its order.

    Args:
        opaque_ops: ops that stay one node; a pass that makes another op is left out.
        off: names of passes that are switched off.
    """

    def __init__(self, opaque_ops: Collection[str], off: Collection[str] = ()):
        self._passes = [p for p in PASSES if p.op in opaque_ops and p.name not in off]
        self.counts: Counter[str] = Counter({p.name: 0 for p in self._passes})

    def run(self, module: fx.GraphModule) -> None:
        for one in self._passes:
            self.counts[one.name] += one.run(module.graph)
        module.graph.lint()
        module.recompile()
