"""CPU kernels in C++ next to what torch does without them: a JSON line for each op and shape.

    python benchmarks/kernels/cpu.py                       # on the best instruction set of this machine
    KVASIR_NATIVE=avx2 python benchmarks/kernels/cpu.py    # at most that one
    python benchmarks/kernels/cpu.py --only linear --threads 1

First comes the machine: read bandwidth of all threads over memory that no cache holds. `fraction` of a row is the
bytes that the op must move at least, by time, of that. Both ways run in turn, so that a busy neighbour slows both;
times are medians of rounds in microseconds. Weights and caches are spread over 256 MiB, so that none is read from a
cache that a model's next step would not find it in; activations are warm, as in a model.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable

import torch

from kvasir.attention.backend import AttentionBatch, AttentionNeed
from kvasir.attention.cpp import CppBackend
from kvasir.attention.cpu import CpuBackend
from kvasir.attention.transform import QKTransform
from kvasir.ops.cpp import activation, linear, norm, rope
from kvasir.ops.cpu import norm as torch_norm
from kvasir.ops.cpu import rope as torch_rope
from kvasir.ops.reference import activation as torch_activation
from kvasir.platforms.cpu import CpuPlatform
from kvasir.platforms.native import native_library

platform = CpuPlatform()  # allocates as the engine does
SPREAD_BYTES = 256 << 20
LINEAR = [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072), (151936, 1024)]  # out, in of Qwen3-0.6B
ROWS = [1, 2, 4, 8, 16, 32, 64]
TOKENS = [1, 8, 256]
HEADS = (16, 8, 128)
DECODE = [(1, 256), (1, 4096), (1, 32768), (8, 512), (32, 512)]  # requests, tokens of each
PREFILL = [(256, 0), (2048, 0), (8192, 0), (512, 4096)]  # new tokens, cached ones
Run = Callable[[], object]


def in_turn(runs: dict[str, Run], seconds: float) -> dict[str, float]:
    """Median microseconds of each, from rounds that run each once."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            begin = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(t) * 1e6 for name, t in times.items()}


def read_bandwidth() -> float:
    """Bytes a second: the best of several sums over 512 MiB, by as many threads as torch has."""
    data = torch.randint(0, 100, (64 << 20,), dtype=torch.int64)
    return max(data.nbytes / (in_turn({"sum": data.max}, 0.2)["sum"] / 1e6) for _ in range(5))


class Bench:
    def __init__(self, seconds: float):
        self.seconds = seconds
        self.bandwidth = read_bandwidth()
        print(json.dumps({
            "op": "machine", "isa": native_library().isa, "threads": torch.get_num_threads(),
            "torch": torch.__version__, "read_gb_s": round(self.bandwidth / 1e9, 1),
        }), flush=True)  # fmt: skip

    def show(self, op: str, dtype: torch.dtype, shape: str, num_bytes: int, cpp: Run, by_torch: Run) -> None:
        us = in_turn({"cpp": cpp, "torch": by_torch}, self.seconds)
        print(json.dumps({
            "op": op, "dtype": str(dtype).removeprefix("torch."), "shape": shape, "cpp_us": round(us["cpp"], 1),
            "torch_us": round(us["torch"], 1), "speedup": round(us["torch"] / us["cpp"], 2),
            "gb_s": round(num_bytes / us["cpp"] / 1e3, 1),
            "fraction": round(num_bytes / (us["cpp"] / 1e6) / self.bandwidth, 2),
        }), flush=True)  # fmt: skip


def bench_linear(bench: Bench, dtype: torch.dtype) -> None:
    for outputs, inputs in LINEAR:
        size = outputs * inputs * dtype.itemsize
        weights = itertools.cycle([torch.randn(outputs, inputs).to(dtype) for _ in range(-(-SPREAD_BYTES // size))])
        for rows in ROWS:
            x = torch.randn(rows, inputs).to(dtype)
            bench.show(
                "linear", dtype, f"[{rows},{inputs}]x[{outputs},{inputs}]", size,
                lambda x=x, w=weights: torch.ops.kvasir.linear.default(x, next(w)),
                lambda x=x, w=weights: torch.nn.functional.linear(x, next(w)),
            )  # fmt: skip


def bench_rows(bench: Bench, dtype: torch.dtype) -> None:
    """Norms, gated activation; bytes in and out of each."""
    for tokens in TOKENS:
        x, residual, weight = (torch.randn(*s).to(dtype) for s in ((tokens, 1024), (tokens, 1024), (1024,)))
        bench.show("rms_norm", dtype, f"[{tokens},1024]", 2 * x.nbytes,
                   lambda: norm.rms_norm(x, weight, 1e-6), lambda: torch_norm.rms_norm(x, weight, 1e-6))  # noqa: B023
        bench.show("add_rms_norm", dtype, f"[{tokens},1024]", 4 * x.nbytes,
                   lambda: norm.add_rms_norm(x, residual, weight, 1e-6),  # noqa: B023
                   lambda: torch_norm.add_rms_norm(x, residual, weight, 1e-6))  # noqa: B023
        both = torch.randn(tokens, 6144).to(dtype)
        bench.show("silu_and_mul", dtype, f"[{tokens},6144]", both.nbytes * 3 // 2,
                   lambda: activation.silu_and_mul(both), lambda: torch_activation.silu_and_mul(both))  # noqa: B023


def torch_rope_and_cache(positions, q, k, v, table, keys, values, slots, q_weight, k_weight, eps) -> None:
    """What the torch backend does: op by op, then index_copy_ into the cache's rows."""
    q, k = torch_norm.rms_norm(q, q_weight, eps), torch_norm.rms_norm(k, k_weight, eps)
    q, k = torch_rope.apply_rope(positions, q, k, table)
    keys.index_copy_(0, slots, k)
    values.index_copy_(0, slots, v)


def bench_rope(bench: Bench, dtype: torch.dtype) -> None:
    heads, kv_heads, size = HEADS
    table = torch.randn(4096, size)
    for tokens in TOKENS:
        packed = torch.randn(tokens, heads + 2 * kv_heads, size).to(dtype)
        q, k, v = packed.split([heads, kv_heads, kv_heads], 1)
        weight = torch.randn(size).to(dtype)
        positions, slots = torch.randint(0, 4096, (tokens,)), torch.randperm(4096)[:tokens]
        cache = torch.zeros(256, 2, kv_heads, 16, size, dtype=dtype)
        keys, values = cache.transpose(2, 3).unbind(1)
        flat_keys, flat_values = torch.zeros(4096, 2, kv_heads, size, dtype=dtype).unbind(1)
        rest = (positions, q, k, v, table)
        bench.show("rope_and_cache", dtype, f"[{tokens},{heads}+2*{kv_heads},{size}]", 2 * packed.nbytes,
                   lambda: rope.rope_and_cache(*rest, keys, values, slots, weight, weight, 1e-6),  # noqa: B023
                   lambda: torch_rope_and_cache(*rest, flat_keys, flat_values, slots, weight, weight, 1e-6))  # noqa: B023


def attention_runs(dtype: torch.dtype, lens: list[tuple[int, int]]) -> dict[str, Run]:
    """One layer after another of both backends. lens: (cached, new) tokens of each request; blocks in random order."""
    heads, kv_heads, size = HEADS
    needed = [-(-(c + n) // 16) for c, n in lens]
    num_blocks = sum(needed)
    order, table = torch.randperm(num_blocks).int(), torch.zeros(len(lens), max(needed), dtype=torch.int32)
    slots = []
    for row, (count, (cached, new)) in enumerate(zip(needed, lens, strict=True)):
        table[row, :count], order = order[:count], order[count:]
        where = torch.arange(cached, cached + new)
        slots.append(table[row].long()[where // 16] * 16 + where % 16)
    new_lens = [n for _, n in lens]
    batch = AttentionBatch(
        torch.tensor([0, *new_lens]).cumsum(0).int(), torch.tensor([c + n for c, n in lens]).int(), table,
        torch.arange(len(lens)), torch.cat(slots), len(lens), sum(new_lens), sum(n == 1 for n in new_lens),
        max(new_lens), max(c + n for c, n in lens), new_lens, [c for c, _ in lens],
    )  # fmt: skip
    tokens = sum(new_lens)
    packed = torch.randn(tokens, heads + 2 * kv_heads, size).to(dtype)
    q, k, v = packed.split([heads, kv_heads, kv_heads], 1)
    weight = torch.ones(size, dtype=dtype)
    transform = QKTransform(torch.arange(tokens) % 1000, torch.randn(1000, size), weight, weight, 1e-6)
    need = AttentionNeed("cpu", dtype, size, heads, kv_heads, 16)
    layer_bytes = num_blocks * 16 * 2 * kv_heads * size * dtype.itemsize
    runs: dict[str, Run] = {}
    for backend in (CppBackend, CpuBackend):
        shape = backend.kv_cache_shape(num_blocks, 16, kv_heads, size)
        layers = range(-(-SPREAD_BYTES // layer_bytes))
        caches = itertools.cycle([platform.zeros(shape, dtype).normal_() for _ in layers])
        impl, metadata = backend.make_impl(heads, size, size**-0.5, kv_heads), backend.make_builder(need).build(batch)
        runs[backend.name] = lambda i=impl, c=caches, m=metadata: i.forward(q, k, v, next(c), m, transform)
    return runs


def bench_attention(bench: Bench, dtype: torch.dtype) -> None:
    """The whole layer of both backends: head norms, rotation, cache write, attention. Bytes: keys and values once."""
    kv_row = 2 * HEADS[1] * HEADS[2] * dtype.itemsize
    for requests, length in DECODE:
        runs = attention_runs(dtype, [(length - 1, 1)] * requests)
        bench.show("decode", dtype, f"{requests}x{length}", requests * length * kv_row, runs["cpp"], runs["cpu"])
    for new, cached in PREFILL:
        runs = attention_runs(dtype, [(cached, new)])
        bench.show("prefill", dtype, f"{new}+{cached}", (new + cached) * kv_row, runs["cpp"], runs["cpu"])


BENCHES = {"linear": bench_linear, "rows": bench_rows, "rope": bench_rope, "attention": bench_attention}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(BENCHES), choices=list(BENCHES))
    parser.add_argument("--dtypes", nargs="*", default=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.3, help="per row")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    bench = Bench(args.seconds)
    for dtype in args.dtypes:
        for name in args.only:
            BENCHES[name](bench, getattr(torch, dtype))


if __name__ == "__main__":
    main()
