"""Host writes of one step, gathered and sent to the device as a single copy."""

from collections.abc import Callable, Sequence

import numpy as np
import torch


class Uploads:
    """`put` values together with what to do once they are on the device; `flush` sends all and does it, in order.

    Everything travels as int64 words; `put_floats` sends float64 bits. A pinned buffer is taken anew for each
    flush: torch's allocator gives it out again only after the copy has read it, so no one has to wait.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._chunks: list[np.ndarray] = []
        self._uses: list[tuple[Callable[[torch.Tensor], None], int, bool]] = []

    def put(self, values: Sequence[int] | np.ndarray, use: Callable[[torch.Tensor], None]) -> None:
        """`use` gets a flat int64 tensor. It may keep it, and it must not wait for the device."""
        self._append(np.asarray(values, dtype=np.int64).reshape(-1), use, floats=False)

    def put_floats(self, values: Sequence[float] | np.ndarray, use: Callable[[torch.Tensor], None]) -> None:
        """`use` gets a flat float32 tensor."""
        self._append(np.asarray(values, dtype=np.float64).reshape(-1).view(np.int64), use, floats=True)

    def do(self, use: Callable[[torch.Tensor], None]) -> None:
        """Device work that must keep its place among the writes; `use` gets an empty tensor."""
        self.put((), use)

    def _append(self, chunk: np.ndarray, use: Callable[[torch.Tensor], None], floats: bool) -> None:
        self._chunks.append(chunk)
        if chunk.size % _ALIGNMENT:
            self._chunks.append(np.zeros(1, dtype=np.int64))
        self._uses.append((use, chunk.size, floats))

    def flush(self) -> None:
        if not self._uses:
            return
        uses, chunks = self._uses, self._chunks
        self._uses, self._chunks = [], []
        words = to_device(np.concatenate(chunks), self.device)
        begin = 0
        for use, size, floats in uses:
            view = words[begin : begin + size]
            use(view.view(torch.float64).float() if floats else view)
            begin += size + size % _ALIGNMENT


_ALIGNMENT = 2
"""Words. Each chunk starts at a multiple of 16 bytes: Triton compiles a kernel anew for pointers that do not."""


def to_device(values: Sequence[int] | np.ndarray, device: torch.device) -> torch.Tensor:
    """int64 on the device, of the shape of `values`, without waiting for it."""
    host = np.array(values, dtype=np.int64)  # an own copy: the caller may change its
    if device.type != "cuda":
        return torch.from_numpy(host).to(device)
    pinned = torch.empty(host.shape, dtype=torch.int64, pin_memory=True)
    pinned.numpy()[...] = host
    return pinned.to(device, non_blocking=True)
