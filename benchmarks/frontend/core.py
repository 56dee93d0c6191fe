"""A core process without a model: each tick it says one token for every live request, at a given rate.

It speaks the real protocol over the real socket, with the real I/O threads; only the step is made up. Every request
walks through the same text, so that a client can check what it gets.

    TICK_S       seconds between two steps (0: as fast as it goes)
    WAIT_FOR     the first step waits for so many requests
"""

import os
import sys
import time
from itertools import repeat

from kvasir.assembly.core import CoreSettings
from kvasir.engine.process import run_core
from kvasir.messages import (
    PROTOCOL_VERSION,
    Control,
    EngineCoreOutput,
    EngineCoreRequest,
    Finished,
    FinishReason,
    Ready,
    Reply,
    SchedulerStats,
    TokenLogprobs,
)
from kvasir.tokenizer import get_tokenizer

TEXT = (
    "The quick brown fox jumps over the lazy dog. A list of names: Ada, Grace, Edsger, Barbara.\n"
    'def main(): return {"answer": 42}  # größer, 你好 👍\n'
)


class StubCore:
    """What `CoreServer` asks of an EngineCore."""

    def __init__(self, settings: CoreSettings):
        config = settings.config
        self.epoch = settings.epoch
        self.ready = Ready(
            protocol_version=PROTOCOL_VERSION,
            num_blocks=1 << 16,
            block_size=16,
            max_model_len=4096,
            max_num_seqs=1 << 16,
            kv_bytes_per_block=1,
            device="stub",
            attention_backend="stub",
        )
        self._ids = get_tokenizer(config.model.tokenizer_path).encode(TEXT, add_special_tokens=False)
        self._tick_s = float(os.environ.get("TICK_S", "0"))
        self._wait_for = int(os.environ.get("WAIT_FOR", "1"))
        self._live: dict[str, EngineCoreRequest] = {}
        self._done: dict[str, int] = {}
        self._next = 0.0
        self._step_id = 0

    @property
    def has_work(self) -> bool:
        return len(self._live) >= self._wait_for

    def use_quiet_moment(self) -> bool:
        return False

    def check_idle(self) -> None:
        return

    def add_request(self, request: EngineCoreRequest) -> None:
        self._live[request.request_id] = request
        self._done[request.request_id] = 0

    def abort_requests(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self._live.pop(request_id, None)
            self._done.pop(request_id, None)

    def reject(self, request: EngineCoreRequest, error: Exception) -> None:
        raise error

    def control(self, message: Control) -> Reply:
        if message.name == "abort":
            self.abort_requests(message.args["request_ids"])
        return Reply(message.call_id)

    def step(self) -> dict[int, EngineCoreOutput]:
        self._wait_for = 1
        self._pace()
        by_client: dict[int, list[str]] = {}
        for request_id, request in self._live.items():
            by_client.setdefault(request.client_index, []).append(request_id)
        self._step_id += 1
        return {client: self._say(client, request_ids) for client, request_ids in by_client.items()}

    def _pace(self) -> None:
        """Late steps are made up for at once, so that the mean rate is the one asked for."""
        now = time.perf_counter()
        if self._next == 0.0:
            self._next = now
        if self._next > now:
            time.sleep(self._next - now)
        self._next += self._tick_s

    def _say(self, client: int, request_ids: list[str]) -> EngineCoreOutput:
        ids, size = self._ids, len(self._ids)
        index = [self._done[i] for i in request_ids]
        said = EngineCoreOutput(self.epoch, self._step_id, time.time(), request_ids, index, list(repeat(1, len(index))))
        said.client_index = client
        said.token_ids = [ids[k % size] for k in index]
        said.stats = SchedulerStats(num_running=len(index))
        for row, request_id in enumerate(request_ids):
            k = self._done[request_id] = index[row] + 1
            params = self._live[request_id].params
            if params.logprobs is not None:
                best = list(range(params.logprobs))
                said.logprobs[row] = [TokenLogprobs([said.token_ids[row], *best], [-0.5] * (len(best) + 1), 1)]
            if k >= (params.max_tokens or 1):
                said.finished.append(Finished(row, FinishReason.LENGTH))
        for ended in said.finished:
            self.abort_requests([request_ids[ended.row]])
        return said

    def shutdown(self) -> None:
        return


if __name__ == "__main__":
    fds = int(sys.argv[1]), int(sys.argv[2])
    sys.exit(run_core(*fds, lambda frame, heartbeat: StubCore(CoreSettings.decode(frame))))
