"""Composition roots: the only place that sees the whole config and asks "is this feature on?".

*Ring*: all; only `worker.py` imports torch.

`EngineArgs` + facts of this machine and model -> `resolve` -> `Resolved` -> engine parts, wired.

*Knows nothing about* how any part works.
"""

from kvasir.assembly.facts import Facts, gather_facts
from kvasir.assembly.resolve import Decision, Resolved, resolve

__all__ = ["Decision", "Facts", "Resolved", "gather_facts", "resolve"]
