"""CUDAGraphWrapper: a function over tensors at fixed addresses, captured once and replayed."""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch

Outputs = tuple[torch.Tensor, ...]
Key = TypeVar("Key")


class GraphPool:
    """Memory that graphs share; the driver is asked for it at the first capture."""

    @cached_property
    def handle(self) -> Any:
        return torch.cuda.graph_pool_handle()


class CUDAGraphWrapper:
    """Calls of `run(key)` by replay, where the key was captured, else as they are.

    The tensors that a captured call returned lie in memory that the next replay of any graph of the same pool may
    write: what they hold is good until then, which is what a step needs. So all graphs together need about the memory
    of the largest, which should be captured first.

    Args:
        run: launches kernels on the current stream and returns the tensors that matter. It reads and writes tensors at
            addresses that stay, and must have run once before it is captured (libraries and kernels are loaded then).
        pool: memory shared with other wrappers, None: nothing will be captured.
    """

    def __init__(self, run: Callable[[Any], Outputs], pool: GraphPool | None):
        self._run = run
        self._pool = pool
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, Outputs]] = {}

    def __contains__(self, key: Any) -> bool:
        return key in self._graphs

    def capture(self, key: Any) -> Outputs:
        """Nothing runs on the device; the current stream must not be the default one.

        What it returns holds the outputs' memory. Keep it while graphs are captured that are to run between a replay of
        this one and the last use of its outputs: without it their own memory may be the same.
        """
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool and self._pool.handle, capture_error_mode="thread_local")
        try:
            outputs = self._run(key)
        finally:
            graph.capture_end()
        self._graphs[key] = graph, tuple(alias(tensor) for tensor in outputs)
        return outputs

    def outputs(self, key: Any) -> Outputs:
        """What replays of a captured key fill."""
        return self._graphs[key][1]

    def __call__(self, key: Any) -> Outputs:
        captured = self._graphs.get(key)
        if captured is None:
            return self._run(key)
        graph, outputs = captured
        graph.replay()
        return outputs


class _Bytes:
    """Memory on the card that somebody else keeps."""

    def __init__(self, address: int, size: int):
        self.__cuda_array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, False), "version": 2}


def alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as `tensor`, without holding on to it."""
    storage = tensor.untyped_storage()
    if storage.nbytes() == 0:
        return torch.empty_like(tensor)
    flat = torch.as_tensor(_Bytes(storage.data_ptr(), storage.nbytes()), device=tensor.device).view(tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
