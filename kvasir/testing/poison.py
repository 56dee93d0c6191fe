"""Poison: requests that end their core or its step, for tests. A token says how and after how many tokens."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from kvasir.executor import StepHandle
from kvasir.executor.uniproc import LocalWorker
from kvasir.messages import Ready, SchedulerOutput, TokenMasks


class AcceleratorError(RuntimeError):
    """Named as torch's error for a device that has failed."""


def _segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> NoReturn:
    while True:
        time.sleep(1)


def _device() -> NoReturn:
    raise AcceleratorError("an illegal memory access was encountered")


def _raise() -> NoReturn:
    raise ValueError("planted in the step")


def _leave() -> NoReturn:
    os._exit(3)


DEEDS: dict[str, Callable[[], None]] = {
    "abort": os.abort,
    "segfault": _segfault,
    "hang": _hang,
    "exit": _leave,
    "device": _device,
    "raise": _raise,
}


class Poison:
    """Looks at each step before it runs.

    Args:
        deeds: token id -> (one of DEEDS, number of output tokens after which it is done).
    """

    def __init__(self, deeds: Mapping[int, tuple[str, int]]):
        self._deeds = {int(token): (name, int(after)) for token, (name, after) in deeds.items()}
        self._slots: dict[int, tuple[str, int]] = {}  # slot -> deed, number of tokens that brings it about

    def before_step(self, plan: SchedulerOutput) -> None:
        for new in plan.new_requests:
            self._slots.pop(new.slot, None)
            for token in new.token_ids[: new.num_prompt_tokens]:
                if token in self._deeds:
                    name, after = self._deeds[token]
                    self._slots[new.slot] = (name, new.num_prompt_tokens + after)
        rows = zip(plan.slots, plan.num_computed_tokens, plan.num_scheduled_tokens, strict=True)
        for slot, computed, scheduled in rows:
            name, at = self._slots.get(slot, ("", 0))
            if name and computed + scheduled >= at:
                DEEDS[name]()


class PoisonedWorker:
    """A worker that looks out for poison."""

    def __init__(self, worker: LocalWorker, poison: Poison):
        self._worker = worker
        self._poison = poison

    def start(self) -> Ready:
        return self._worker.start()

    def execute_model(self, plan: SchedulerOutput) -> None:
        self._poison.before_step(plan)
        self._worker.execute_model(plan)

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> StepHandle:
        return self._worker.sample_tokens(step_id, masks)

    def call(self, name: str, args: dict[str, Any]) -> Any:
        return self._worker.call(name, args)

    def stop(self) -> None:
        self._worker.stop()
