"""Products with few rows: our kernel's variants and the library's, on the shapes of two models, as graph replays.

    python benchmarks/kernels/linear.py            # what the engine launches, next to the library
    python benchmarks/kernels/linear.py --sweep    # all variants; the best of each shape last

One JSON object a line. `fraction` is of `--rate`, the card's measured read bandwidth. A graph walks over enough copies of the
weight that none of it is found in the last-level cache.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import sys

import torch
import torch.nn.functional as F

SHAPES = {  # outputs, inputs
    "qwen3-0.6b": {"qkv": (4096, 1024), "o": (1024, 2048), "gate_up": (6144, 1024), "down": (1024, 3072), "head": (151936, 1024)},
    "llama-3.1-8b": {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336), "head": (128256, 4096)},
}
ROWS = (1, 8, 32, 64)
BYTES = 256 << 20


def variants():
    from kvasir.ops.triton.skinny_linear import SkinnyConfig

    for n, k, stages in itertools.product((16, 32, 64, 128), (64, 128, 256), (3, 5)):
        if (n + 32) * k * 2 * stages <= 200 * 1024:
            for splits in (1, 2, 4, 8):
                yield SkinnyConfig(n, k, splits, 4, stages)


def compile_some(part: int, parts: int) -> None:
    """Fills Triton's disk cache; the sweep then only loads."""
    from kvasir.ops.triton.skinny_linear import skinny_linear

    jobs = [(rows, config) for rows in (16, 32, 64) for config in variants() if config.splits < 4]
    x, w = (torch.empty(64, 4096, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for rows, config in jobs[part::parts]:
        try:
            warm(skinny_linear, x[:rows], w, config)
        except Exception as error:  # out of shared memory, say
            print("refused", config, repr(error)[:80], file=sys.stderr)


def warm(launch, x, weight, config) -> None:
    from triton.runtime.jit import JITFunction

    run = JITFunction.run
    JITFunction.run = lambda self, *a, grid, warmup, **o: run(self, *a, grid=grid, warmup=True, **o)
    try:
        launch(x, weight, None, config)
    finally:
        JITFunction.run = run


def seconds(run, repeats: int = 9) -> float:
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):
        graph.capture_begin()
        run()
        graph.capture_end()
    for _ in range(2):
        graph.replay()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--rate", type=float, default=2.89e12)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--models", nargs="+", default=list(SHAPES))
    parser.add_argument("--only-head", action="store_true")
    args = parser.parse_args()
    if args.sweep:
        parts = max(1, (os.cpu_count() or 2) - 1)
        spawn = multiprocessing.get_context("spawn")
        jobs = [spawn.Process(target=compile_some, args=(part, parts)) for part in range(parts)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
    from kvasir.ops.triton.skinny_linear import skinny_config, skinny_linear

    torch.manual_seed(0)
    for model, name, rows in itertools.product(args.models, SHAPES["qwen3-0.6b"], args.rows):
        n, k = SHAPES[model][name]
        copies = max(2, math.ceil(BYTES / (n * k * 2)))
        weights = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * k**-0.5 for _ in range(copies)]
        x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
        want = F.linear(x.float(), weights[0].float())
        fields = {"model": model, "name": name, "n": n, "k": k, "rows": rows}

        def show(taken: float, error: float, fields=fields, size=n * k * 2, **more: object) -> None:
            row = dict(fields, **more, us=round(taken * 1e6, 2), fraction=round(size / taken / args.rate, 3), error=round(error, 5))
            print(json.dumps(row), flush=True)

        def error_of(got: torch.Tensor, want=want) -> float:
            return ((got.float() - want).norm() / want.norm()).item()

        taken = seconds(lambda: [F.linear(x, w) for w in weights]) / copies
        show(taken, error_of(F.linear(x, weights[0])), by="library")
        found = []
        for config in variants() if args.sweep else [skinny_config(n, k)]:
            try:
                taken = seconds(lambda: [skinny_linear(x, w, None, config) for w in weights], 5) / copies
                found.append((taken, error_of(skinny_linear(x, weights[0], None, config)), config))
            except Exception as error:
                print(json.dumps(dict(fields, config=vars(config), refused=repr(error)[:100])), file=sys.stderr, flush=True)
        for taken, wrong, config in sorted(found, key=lambda f: f[0])[: 4 if args.sweep else 1]:
            show(taken, wrong, by="kvasir", **vars(config))
        del weights


if __name__ == "__main__":
    main()
