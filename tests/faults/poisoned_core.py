"""An engine core whose worker looks out for poison: `python -m tests.faults.poisoned_core FD HEARTBEAT_FD`."""

import json
import os
import sys
from typing import Any

from kvasir.assembly import core
from kvasir.testing.poison import DEEDS, Poison, PoisonedWorker

POISON = "KVASIR_TEST_POISON"  # JSON: token id -> [deed, after how many tokens]


def _device_assert() -> None:
    """A real fault of a card: it is noticed later, by whoever waits for the device next."""
    import torch

    torch.zeros(1, device="cuda").index_select(0, torch.tensor([1 << 20], device="cuda"))


DEEDS["device_assert"] = _device_assert


def make_worker(*args: Any) -> PoisonedWorker:
    from kvasir.assembly.worker import make_worker

    return PoisonedWorker(make_worker(*args), Poison(json.loads(os.environ[POISON])))


if __name__ == "__main__":
    core.WORKER_FACTORY = "tests.faults.poisoned_core:make_worker"
    sys.exit(core.main())
