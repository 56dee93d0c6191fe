"""Host time of the torch-free core: microseconds per `schedule` and `update_from_output`, no worker behind them.

    python benchmarks/scheduler_host_time.py [--rows 1 32 256 1024] [--steps 512] [--overlap]

Every row decodes; blocks of 16, so that a sixteenth of the rows takes a block in a step (rows are staggered).
Also: time to add a long prompt, first schedule of it, and of one that hits the prefix cache.
"""

import argparse
import gc
import statistics
import time

from kvasir.kv_cache import KVCacheManager, KVSpec
from kvasir.messages import EngineCoreRequest, ModelRunnerOutput, SamplingParams, SchedulerOutput
from kvasir.scheduler import Scheduler, SchedulerSettings

BLOCK_SIZE = 16
clock = time.thread_time  # CPU time: what the core itself needs, whatever else the machine does


def answer(step: SchedulerOutput) -> ModelRunnerOutput:
    counts = [int(s) for s in step.samples]
    return ModelRunnerOutput(step.step_id, counts, [7] * sum(counts))


def make_scheduler(rows: int, tokens_each: int, budget: int = 8192) -> Scheduler:
    blocks = rows * (tokens_each // BLOCK_SIZE + 2)
    kv = KVCacheManager(KVSpec(blocks, BLOCK_SIZE))
    return Scheduler(SchedulerSettings(rows, max(budget, rows), 131_072, max_queued_requests=rows + 1), kv)


def decode(rows: int, steps: int, overlap: bool) -> tuple[list[float], list[float]]:
    """Microseconds of each `schedule` and of each `update_from_output` in steady decode."""
    scheduler = make_scheduler(rows, 64 + steps)
    for i in range(rows):
        prompt = [i, *range(1 + i % BLOCK_SIZE)]
        params = SamplingParams(max_tokens=4 * steps + 64)
        scheduler.add_request(EngineCoreRequest(f"request-{i}", prompt, params, i, float(i), stop_token_ids=[2]))
    while scheduler.num_waiting:
        step = scheduler.schedule()
        scheduler.update_from_output(step, answer(step))
    schedule_us, update_us, ahead = [], [], scheduler.schedule() if overlap else None
    gc.collect()
    for _ in range(steps):
        begin = clock()
        step = scheduler.schedule()
        middle = clock()
        landing, ahead = (ahead, step) if overlap else (step, None)
        result = answer(landing)
        resumed = clock()
        scheduler.update_from_output(landing, result)
        end = clock()
        schedule_us.append((middle - begin) * 1e6)
        update_us.append((end - resumed) * 1e6)
    return schedule_us, update_us


def long_prompt(num_tokens: int) -> tuple[float, float, float]:
    """Microseconds to add a prompt, to schedule it first, and to schedule the same prompt again from the cache."""
    scheduler = make_scheduler(2, num_tokens, budget=num_tokens)
    times = []
    for name in ("cold", "warm"):
        begin = clock()
        scheduler.add_request(EngineCoreRequest(name, list(range(num_tokens)), SamplingParams(max_tokens=1), 0, 0.0))
        times.append((clock() - begin) * 1e6)
        begin = clock()
        step = scheduler.schedule()
        times.append((clock() - begin) * 1e6)
        scheduler.update_from_output(step, answer(step))
    return times[0], times[1], times[3]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32, 256, 1024])
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--overlap", action="store_true")
    args = parser.parse_args()
    print(f"{'rows':>6} {'schedule us':>12} {'update us':>10} {'both us':>8} {'p99 us':>8}")
    for rows in args.rows:
        schedule_us, update_us = decode(rows, args.steps, args.overlap)
        both = sorted(a + b for a, b in zip(schedule_us, update_us, strict=True))
        middle = (statistics.median(schedule_us), statistics.median(update_us), statistics.median(both))
        print(f"{rows:>6} {middle[0]:>12.1f} {middle[1]:>10.1f} {middle[2]:>8.1f} {both[len(both) * 99 // 100]:>8.1f}")
    print(f"\n{'prompt':>7} {'add us':>8} {'first schedule us':>18} {'from the cache us':>18}")
    for num_tokens in (512, 8192, 65_536):
        add, cold, warm = long_prompt(num_tokens)
        print(f"{num_tokens:>7} {add:>8.0f} {cold:>18.0f} {warm:>18.0f}")


if __name__ == "__main__":
    main()
