"""Captured steps: CUDA graphs, and the choice between them at run time; kernels compiled before they are needed; and,
if asked for, a model's forward pass compiled by torch (`forward.py`, imported only then).

*Ring*: worker. A function over tensors at fixed addresses -> a graph that replays it; a batch's shape -> which graph;
a module and its layers that are not looked into -> a compiled forward pass.

*Knows nothing about* requests, attention or what a captured function or a module computes.
"""

from kvasir.compilation.ahead import CompileAhead
from kvasir.compilation.cudagraph import CUDAGraphWrapper, GraphPool
from kvasir.compilation.dispatcher import BatchDescriptor, CudagraphDispatcher, CudagraphMode

__all__ = ["BatchDescriptor", "CUDAGraphWrapper", "CudagraphDispatcher", "CudagraphMode", "CompileAhead", "GraphPool"]
