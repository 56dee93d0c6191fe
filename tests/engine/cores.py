"""Engine cores over the fake executor, in this process or (`python -m tests.engine.cores FD`) in their own."""

import json
import os
import sys
import time
from typing import Any

from kvasir.engine.client import ProcessClient
from kvasir.engine.core import EngineCore
from kvasir.engine.process import run_core
from kvasir.engine.supervisor.budget import RestartBudget
from kvasir.engine.supervisor.incidents import Incidents
from kvasir.engine.supervisor.supervisor import Supervisor
from kvasir.engine.supervisor.watch import Deadlines
from kvasir.kv_cache import KVCacheManager, KVSpec
from kvasir.messages import EngineCoreOutput, EngineCoreRequest, Finished, SamplingParams
from kvasir.scheduler import Scheduler, SchedulerSettings
from kvasir.testing.fake_executor import FakeExecutor
from kvasir.testing.poison import DEEDS, Poison
from kvasir.utils.heartbeat import Heartbeat

VOCAB = 261  # the byte tokenizer's


def _orphan() -> None:
    """Dies and leaves a child behind that holds every descriptor open for a while."""
    if os.fork() == 0:
        time.sleep(20)
        os._exit(0)
    os.abort()


DEEDS["orphan"] = _orphan


def fake_core(
    *,
    overlap: bool = True,
    num_blocks: int = 64,
    max_num_seqs: int = 8,
    max_queued_requests: int = 1000,
    max_num_batched_tokens: int = 64,
    delay_s: float = 0.0,
    epoch: int = 0,
    heartbeat: Heartbeat | None = None,
    poison: dict[int, tuple[str, int]] | None = None,
    **executor: Any,
) -> EngineCore:
    fake = FakeExecutor(
        num_blocks,
        4,
        max_num_seqs,
        512,
        VOCAB,
        delays=dict.fromkeys(range(10000), delay_s) if delay_s else {},
        before_step=Poison(poison).before_step if poison else None,
        **executor,
    )
    settings = SchedulerSettings(
        max_num_seqs, max_num_batched_tokens, 512, max_queued_requests=max_queued_requests, overlap=overlap
    )
    return EngineCore(
        fake,
        lambda ready: Scheduler(settings, KVCacheManager(KVSpec(ready.num_blocks, ready.block_size)), epoch=epoch),
        overlap=overlap,
        epoch=epoch,
        heartbeat=heartbeat,
    )


def request(request_id: str, prompt: list[int], max_tokens: int = 8, seed: int = 1, **more: Any) -> EngineCoreRequest:
    return EngineCoreRequest(request_id, prompt, SamplingParams(max_tokens=max_tokens), seed, time.time(), **more)


class Heard:
    """Collects what a core says, request by request."""

    def __init__(self) -> None:
        self.tokens: dict[str, list[int]] = {}
        self.finished: dict[str, Finished] = {}

    def take(self, said: EngineCoreOutput) -> None:
        at = 0
        for row, (request_id, first, count) in enumerate(
            zip(said.request_ids, said.first_index, said.num_new, strict=True)
        ):
            tokens = self.tokens.setdefault(request_id, [])
            assert first == len(tokens), "a token is missing or came twice"
            tokens += said.token_ids[at : at + count]
            at += count
            for ended in said.finished:
                if ended.row == row:
                    self.finished[request_id] = ended

    def run(self, core: EngineCore, max_steps: int = 5000) -> "Heard":
        for _ in range(max_steps):
            if not core.has_work:
                core.scheduler.check_integrity()
                return self
            for said in core.step().values():
                self.take(said)
        raise AssertionError(f"still at work after {max_steps} steps")


def supervisor(
    max_restarts: int = 0,
    *,
    step_s: float = 30.0,
    incidents: Incidents | None = None,
    standby: bool = False,
    **core: Any,
) -> Supervisor:
    """Over fake cores in processes of their own; `core` is what `fake_core` is given there."""
    return Supervisor(
        lambda: ProcessClient("tests.engine.cores", 8),
        lambda epoch, known: json.dumps({**core, "epoch": epoch}).encode(),
        RestartBudget(max_restarts),
        Deadlines(30.0, 30.0, step_s),
        incidents,
        (lambda: ProcessClient("tests.engine.cores", 8)) if standby else None,
    )


def main() -> int:
    return run_core(
        int(sys.argv[1]), int(sys.argv[2]), lambda frame, beat: fake_core(heartbeat=beat, **json.loads(frame))
    )


if __name__ == "__main__":
    sys.exit(main())
