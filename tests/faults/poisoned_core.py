"""An engine core whose worker looks out for poison: `python -m tests.faults.poisoned_core FD HEARTBEAT_FD`."""

import json
import os
import sys
from typing import Any

from kvasir.assembly import core
from kvasir.testing.poison import Poison, PoisonedWorker

POISON = "KVASIR_TEST_POISON"  # JSON: token id -> [deed, after how many tokens]


def make_worker(*args: Any) -> PoisonedWorker:
    from kvasir.assembly.worker import make_worker

    return PoisonedWorker(make_worker(*args), Poison(json.loads(os.environ[POISON])))


if __name__ == "__main__":
    core.WORKER_FACTORY = "tests.faults.poisoned_core:make_worker"
    sys.exit(core.main())
