"""Door to the worker: the masks of a step, applied to its logits on the device."""

import numpy as np
import torch

from kvasir.messages import SlotRequest, TokenMasks
from kvasir.ops.token_mask import apply_token_masks
from kvasir.sampling.rows import SampleRows
from kvasir.sampling.uploads import to_device


class TokenMaskProcessor:
    """A `MaskSink`. Its slots are those with a mask in the step being sampled, so other steps pay nothing."""

    def __init__(self, device: torch.device):
        self.slots: dict[int, int] = {}  # slot -> which of the masks
        self._device = device
        self._words = bytearray()

    def take(self, masks: TokenMasks | None) -> None:
        if masks is None:
            self.slots = {}
        else:
            self.slots, self._words = {slot: i for i, slot in enumerate(masks.slots)}, masks.words

    def add(self, slot: int, request: SlotRequest) -> None:
        pass

    def remove(self, slot: int) -> None:
        pass

    def move(self, source: int, target: int) -> None:
        if source in self.slots:
            self.slots[target] = self.slots.pop(source)

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        masked = [(row, self.slots[slot]) for row, slot in enumerate(rows.host_slots) if slot in self.slots]
        packed = np.frombuffer(self._words, dtype=np.uint8).reshape(len(self.slots), -1)
        bits = _uploaded(packed[[i for _, i in masked]], self._device)  # [M, B]
        apply_token_masks(logits, to_device([row for row, _ in masked], self._device), bits)
        return logits

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        self.slots = {}


def _uploaded(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """A copy on the device, without waiting for it."""
    host = torch.from_numpy(array)
    if device.type != "cuda":
        return host.to(device)
    pinned = torch.empty(host.shape, dtype=host.dtype, pin_memory=True)
    pinned.copy_(host)
    return pinned.to(device, non_blocking=True)
