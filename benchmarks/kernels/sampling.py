"""Time of one sampling step: a JSON line for each (rows, vocabulary, kind of request).

    python benchmarks/kernels/sampling.py [--device cuda] [--repeats 20]

Includes the host's part (choosing paths, launching), since a decode step pays for it too; the input is the logits of
a model-like distribution (most mass on few tokens), in bfloat16 on CUDA and float32 on CPU. `wall_us` is the median
of one step that is waited for; `queued_us` the mean of steps launched one after the other and waited for once.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from kvasir.messages import SamplingParams, SlotRequest
from kvasir.sampling import Sampler, SampleRows, SamplingState

KINDS: dict[str, dict] = {
    "greedy": {"temperature": 0.0},
    "temperature": {"temperature": 0.8},
    "top_k_50": {"top_k": 50},
    "top_p_0.9": {"top_p": 0.9},
    "top_k_50_top_p_0.9": {"top_k": 50, "top_p": 0.9},
    "min_p_0.05": {"min_p": 0.05},
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.2},
    "logit_bias": {"temperature": 0.8, "logit_bias": dict.fromkeys(range(20), 1.0)},
    "logprobs_5": {"temperature": 0.0, "logprobs": 5},
}
SHAPES = {
    "cuda": [(1, 151_936), (32, 151_936), (256, 151_936)],
    "cpu": [(1, 32_000), (32, 32_000), (1, 151_936)],
}


def measure(step: Callable[[], object], device: str, repeats: int) -> dict[str, float]:
    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        step()
    wait()
    walls = []
    for _ in range(repeats):
        begin = time.perf_counter()
        step()
        wait()
        walls.append(time.perf_counter() - begin)
    begin = time.perf_counter()
    for _ in range(repeats):
        step()
    wait()
    queued = (time.perf_counter() - begin) / repeats
    return {
        "wall_us": round(statistics.median(walls) * 1e6, 1),
        "wall_min_us": round(min(walls) * 1e6, 1),
        "queued_us": round(queued * 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    args = parser.parse_args()
    where = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    for rows, vocab in SHAPES[args.device]:
        torch.manual_seed(0)
        logits = torch.randn(rows, vocab, device=args.device) * 2
        logits.scatter_add_(
            1, torch.randint(vocab, (rows, 20), device=args.device), torch.full_like(logits[:, :20], 12)
        )
        logits = logits.bfloat16() if args.device == "cuda" else logits
        for kind in args.kinds:
            state = SamplingState(rows, vocab, args.device)
            for slot in range(rows):
                params = SamplingParams(max_tokens=None, **KINDS[kind])
                state.add(slot, SlotRequest(str(slot), slot, list(range(100)), 80, 0, [], params, seed=slot))
            state.flush()
            sampler = Sampler(state)
            slots = torch.arange(rows, device=args.device)
            step_rows = SampleRows(slots, list(range(rows)), torch.full_like(slots, 100))
            times = measure(partial(sampler.sample, logits, step_rows), args.device, args.repeats)
            print(json.dumps({"kind": kind, "rows": rows, "vocab": vocab, **times, "device": where}), flush=True)


if __name__ == "__main__":
    main()
