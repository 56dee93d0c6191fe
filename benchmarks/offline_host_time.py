"""Host time of the offline engine: microseconds of CPU a step spends outside of the model, and where.

    python benchmarks/offline_host_time.py [--rows 256 1024] [--steps 300]

The executor answers at once with a token for each row, so what is left is the engine: scheduler, output, text. Every
row decodes; the median step is shown.
"""

import argparse
import gc
import statistics
import time
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace

from kvasir.engine.client import InProcessClient
from kvasir.engine.core import EngineCore
from kvasir.engine.input import InputProcessor
from kvasir.engine.llm_engine import LLMEngine
from kvasir.kv_cache import KVCacheManager, KVSpec
from kvasir.messages import (
    PROTOCOL_VERSION,
    ModelRunnerOutput,
    Ready,
    RequestOutputKind,
    SamplingParams,
    SchedulerOutput,
)
from kvasir.scheduler import Scheduler, SchedulerSettings
from kvasir.tokenizer import get_tokenizer

BUNDLED = Path(__file__).parent.parent / "kvasir" / "assets" / "kvasir-demo"
BLOCK_SIZE = 16


class InstantExecutor:
    """Samples the text's next token for every row that samples."""

    def __init__(self, num_blocks: int, rows: int, ids: list[int]):
        self._num_blocks, self._rows, self._ids = num_blocks, rows, ids
        self._results: dict[int, ModelRunnerOutput] = {}

    def start(self) -> Ready:
        return Ready(PROTOCOL_VERSION, self._num_blocks, BLOCK_SIZE, 8192, self._rows, 1, "instant", "instant")

    def execute_model(self, step: SchedulerOutput) -> None:
        counts = [int(s) for s in step.samples]
        token_id = self._ids[step.step_id % len(self._ids)]
        self._results[step.step_id] = ModelRunnerOutput(step.step_id, counts, [token_id] * sum(counts))

    def sample_tokens(self, step_id: int) -> "Future[ModelRunnerOutput]":
        future: Future[ModelRunnerOutput] = Future()
        future.set_result(self._results.pop(step_id))
        return future

    def call(self, name: str, args: dict[str, object]) -> None:
        return None

    def stop(self) -> None:
        return None


def measure(rows: int, steps: int, **params: object) -> tuple[float, float]:
    """Median microseconds of (the core's step, the rest of LLMEngine.step)."""
    tokenizer = get_tokenizer(str(BUNDLED))
    ids = tokenizer.encode("The answer is 42, as you can see: größer, 你好 👍. " * 9, add_special_tokens=False)
    num_blocks = rows * (steps // BLOCK_SIZE + 8)
    settings = SchedulerSettings(rows, max(8192, rows), 8192, max_queued_requests=rows + 1, overlap=True)
    core = EngineCore(
        InstantExecutor(num_blocks, rows, ids),
        lambda ready: Scheduler(settings, KVCacheManager(KVSpec(num_blocks, BLOCK_SIZE))),
        overlap=True,
    )
    client = InProcessClient(core)
    engine = LLMEngine(
        SimpleNamespace(),
        client,
        InputProcessor(tokenizer, max_model_len=8192, vocab_size=len(tokenizer), eos_token_ids=[1]),
        tokenizer,
    )
    for i in range(rows):
        wanted = SamplingParams(max_tokens=steps + 64, ignore_eos=True, **params)
        engine.add_request(f"r{i}", [5 + i % 7, 6, 7], wanted)
    spent = [0.0]
    step = client.step

    def timed() -> list[object]:
        begin = time.thread_time()
        said = step()
        spent[0] = time.thread_time() - begin
        return said

    client.step = timed
    core_us, rest_us = [], []
    for _ in range(16):
        engine.step()
    gc.collect()
    for _ in range(steps):
        begin = time.thread_time()
        engine.step()
        whole = time.thread_time() - begin
        core_us.append(spent[0] * 1e6)
        rest_us.append((whole - spent[0]) * 1e6)
    return statistics.median(core_us), statistics.median(rest_us)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--steps", type=int, default=300)
    args = parser.parse_args()
    final = RequestOutputKind.FINAL_ONLY
    cases = {
        "ids only (detokenize=False)": {"output_kind": final, "detokenize": False},
        "text": {"output_kind": final},
        "text, two stop strings": {"output_kind": final, "stop": ["</s>", "User:"]},
        "text so far, each step": {"output_kind": RequestOutputKind.CUMULATIVE},
    }
    print(f"{'rows':>6}  {'what':32}{'core us':>9}{'output us':>11}{'us/token':>10}")
    for rows in args.rows:
        for name, params in cases.items():
            core_us, rest_us = measure(rows, args.steps, **params)
            print(f"{rows:6}  {name:32}{core_us:9.0f}{rest_us:11.0f}{rest_us / rows:10.2f}")


if __name__ == "__main__":
    main()
