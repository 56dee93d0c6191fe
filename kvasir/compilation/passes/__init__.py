"""Passes: what is mended in a graph before it is compiled. One pass a file, one table of all of them (`manager.py`).

*Ring*: worker. A graph of torch's ops and ours -> the same arithmetic in fewer of them.

*Knows nothing about* models, pieces, devices or what becomes of the graph.
"""

from kvasir.compilation.passes.manager import PASSES, PassManager

__all__ = ["PASSES", "PassManager"]
