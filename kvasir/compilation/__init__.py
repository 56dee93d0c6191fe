"""Captured steps: CUDA graphs, and the choice between them at run time; kernels compiled before they are needed.

*Ring*: worker. A function over tensors at fixed addresses -> a graph that replays it; a batch's shape -> which graph.

*Knows nothing about* models, requests, attention or what the captured function does.
"""

from kvasir.compilation.ahead import CompileAhead
from kvasir.compilation.cudagraph import CUDAGraphWrapper
from kvasir.compilation.dispatcher import BatchDescriptor, CudagraphDispatcher, CudagraphMode

__all__ = ["BatchDescriptor", "CUDAGraphWrapper", "CudagraphDispatcher", "CudagraphMode", "CompileAhead"]
