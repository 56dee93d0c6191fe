"""Attention kernels alone on one card: decode and prefill as graph replays over random block tables.

    python benchmarks/kernels/attention.py                 # what the engine launches, next to the card's ceilings
    python benchmarks/kernels/attention.py --sweep         # other variants, to choose the frozen ones from
    python benchmarks/kernels/attention.py --only decode --layout token

Prints one JSON object a line. `fraction` is of the read bandwidth measured in the same run. Each graph of decode walks over
several layers' caches (2 GiB or more in all), so that nothing is read from the last-level cache that a model's next
step would not find there. Inputs are random normal, never zeros.
"""

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
import triton
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.runtime.jit import JITFunction

from kvasir.ops.cuda.prefill_attention import prefill_attention, tiles_of
from kvasir.ops.triton import paged_attention as launch
from kvasir.ops.triton.kv_write import reshape_and_cache
from kvasir.ops.triton.norm import add_rms_norm
from kvasir.ops.triton.rope import apply_rope

HEADS = [(16, 8, 128), (32, 8, 128)]
DECODE_CONFIGS = [
    launch.DecodeConfig(n, w, s) for n, w, s in itertools.product((32, 64, 128), (2, 4, 8), (2, 3, 4)) if n * w < 1024
]
PREFILL_CONFIGS = list(itertools.starmap(
    launch.PrefillConfig, itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3, 4))
))
DECODE = [(32, 640), (256, 576), (16, 16000), (1, 2000), (32, 128), (32, 2048), (64, 640), (128, 576)]
PREFILL_HEADS = [*HEADS, (14, 2, 64)]
PREFILL = {
    "32 of 512": [(0, 512)] * 32,
    "8 of 128": [(0, 128)] * 8,
    "64 of 128": [(0, 128)] * 64,
    "256 of 64": [(0, 64)] * 256,
    "2 of 1,024": [(0, 1024)] * 2,
    "16 of 256 on 1,000": [(1000, 256)] * 16,
    "4 of 2,048 on 6,144": [(6144, 2048)] * 4,
    "8,192": [(0, 8192)],
    "1,024 on 7,168": [(7168, 1024)],
    "8,192 on 8,192": [(8192, 8192)],
    "8 beside 16 of decode": [(600 + 37 * i, 1) for i in range(16)] + [(128 * i + 5, 300 + 61 * i) for i in range(8)],
}
"""(context, new tokens) of each row; where some have one token, the step is one whose rows only the device knows."""
BYTES_PER_GRAPH = 2 << 30
BLOCK_SIZE = 16
REFUSALS = (RuntimeError, triton.TritonError)  # out of registers or shared memory, or not compilable


def show(**fields: object) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in fields.items()}), flush=True)


def seconds(run: Callable[[], object], repeats: int = 20) -> float:
    """Median of single timings after a warm-up."""
    for _ in range(3):
        run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return statistics.median(times)


def graph_of(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(side):  # without torch.cuda.graph's collection of garbage, which takes longer than the rest
        graph.capture_begin()
        run()
        graph.capture_end()
    return graph


def read_bandwidth() -> float:
    """Bytes per second of a reduction over 4 GiB."""
    data = torch.randn(1 << 30, device="cuda")
    rate = data.nbytes / seconds(lambda: torch.sum(data))
    show(what="read_bandwidth", tb_s=rate / 1e12, card=torch.cuda.get_device_name(), torch=torch.__version__,
         triton=triton.__version__)
    return rate


class Caches:
    """Several layers' caches, each filled with its own numbers, and block tables that jump about in them."""

    def __init__(self, rows: int, tokens: int, num_kv_heads: int, head_size: int, layout: str) -> None:
        per_row = -(-tokens // BLOCK_SIZE)
        num_blocks = rows * per_row
        layer_bytes = num_blocks * BLOCK_SIZE * num_kv_heads * head_size * 2 * 2
        self.layers = []
        for _ in range(max(2, math.ceil(BYTES_PER_GRAPH / layer_bytes))):
            if layout == "head":  # the engine's: [N, 2, K, S, D]
                cache = torch.randn(num_blocks, 2, num_kv_heads, BLOCK_SIZE, head_size, device="cuda",
                                    dtype=torch.bfloat16)
                self.layers.append((cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)))
            else:  # [N, 2, S, K, D]
                cache = torch.randn(num_blocks, 2, BLOCK_SIZE, num_kv_heads, head_size, device="cuda",
                                    dtype=torch.bfloat16)
                self.layers.append((cache[:, 0], cache[:, 1]))
        self.table = torch.randperm(num_blocks, device="cuda").int().view(rows, per_row)
        self.seq_lens = torch.full((rows,), tokens, dtype=torch.int32, device="cuda")
        order = torch.arange(rows, device="cuda")
        starts = torch.arange(rows + 1, device="cuda", dtype=torch.int32)
        self.rows = launch.Rows(starts, self.seq_lens, self.table, order)
        self.read_bytes = rows * tokens * num_kv_heads * head_size * 2 * 2  # one layer


def decode_once(
    caches: Caches,
    query: torch.Tensor,
    config: launch.DecodeConfig | None,
    plan: launch.SplitPlan | None,
) -> tuple[float, torch.Tensor]:
    """Seconds per layer, and the first layer's output."""
    outputs = [torch.empty_like(query) for _ in caches.layers]

    def run() -> None:
        for (key_cache, value_cache), output in zip(caches.layers, outputs, strict=True):
            common = launch._common_arguments(query, key_cache, query.shape[2] ** -0.5, None, None)
            launch._decode(query, key_cache, value_cache, caches.rows, output, query.shape[0], common, config, plan)

    graph = graph_of(run)
    return seconds(graph.replay) / len(caches.layers), outputs[0]


def decode(rate: float, sweep: bool, layout: str) -> None:
    processors = torch.cuda.get_device_properties(0).multi_processor_count
    for (num_heads, num_kv_heads, head_size), (rows, tokens) in itertools.product(HEADS, DECODE):
        caches = Caches(rows, tokens, num_kv_heads, head_size, layout)
        query = torch.randn(rows, num_heads, head_size, device="cuda", dtype=torch.bfloat16)
        programs = rows * num_kv_heads
        config = launch.decode_config(head_size, torch.bfloat16, programs, processors)
        default = (config, launch.split_plan(rows, num_kv_heads, processors))
        candidates = [default]
        if sweep:
            candidates += [(config, default[1]) for config in DECODE_CONFIGS if config != default[0]]
            plans = [launch.SplitPlan(s, m) for s, m in itertools.product((1, 2, 4, 8, 16, 32), (128, 256, 512, 2048))]
            candidates += [(default[0], plan) for plan in plans if plan != default[1]]
        first = None
        for config, plan in candidates:
            fields = {"what": "decode", "rows": rows, "tokens": tokens, "heads": num_heads, "kv_heads": num_kv_heads,
                      "layout": layout, "default": (config, plan) == default, "block_n": config.block_n,
                      "warps": config.num_warps, "stages": config.num_stages, "splits": plan.splits,
                      "min_split": plan.min_split}
            try:
                taken, output = decode_once(caches, query, config, plan)
            except REFUSALS as error:
                show(**fields, refused=repr(error)[:200])
                continue
            if first is None:
                first = output.clone()
            wrong = (output.float() - first.float()).abs().max().item()
            show(**fields, us=taken * 1e6, tb_s=caches.read_bytes / taken / 1e12,
                 fraction=caches.read_bytes / taken / rate, difference=wrong)
        del caches
        torch.cuda.empty_cache()


class Prompts:
    """Rows of (context, new tokens) of one layer, over a fragmented block table."""

    def __init__(self, lens: list[tuple[int, int]], num_heads: int, num_kv_heads: int, head_size: int) -> None:
        needed = [-(-(context + new) // BLOCK_SIZE) for context, new in lens]
        order = torch.randperm(sum(needed)).int().split(needed)
        table = torch.nn.utils.rnn.pad_sequence(order, batch_first=True).cuda()
        starts = torch.tensor([0, *itertools.accumulate(new for _, new in lens)], dtype=torch.int32, device="cuda")
        seq_lens = torch.tensor([context + new for context, new in lens], dtype=torch.int32, device="cuda")
        self.rows = launch.Rows(starts, seq_lens, table, torch.arange(len(lens), device="cuda"))
        cache = torch.randn(sum(needed), 2, num_kv_heads, BLOCK_SIZE, head_size, device="cuda", dtype=torch.bfloat16)
        self.views = cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
        tokens = sum(new for _, new in lens)
        self.query = torch.randn(tokens, num_heads, head_size, device="cuda", dtype=torch.bfloat16)
        self.query_lens = [new for _, new in lens]
        self.num_decodes = self.query_lens.count(1)  # they come first
        self.mixed = self.num_decodes > 0
        pairs = sum(new * context + new * (new + 1) / 2 for context, new in lens if new > 1)
        self.flops = 4 * num_heads * head_size * pairs

    def attend(self, config: launch.PrefillConfig | str | None) -> tuple[float, torch.Tensor]:
        """Seconds, and the output. None: the best in Triton; "cuda": the kernel in CUDA C++."""
        output = torch.zeros_like(self.query)  # of decode rows nothing is written
        if isinstance(config, str):
            graph = graph_of(lambda: self._attend_in_cuda(output))
            return seconds(graph.replay), output
        common = launch._common_arguments(self.query, self.views[0], self.query.shape[2] ** -0.5, None, None)
        where = self.query, *self.views, self.rows, output
        graph = graph_of(lambda: launch._prefill(*where, 0, common, config, self.mixed))
        return seconds(graph.replay), output

    def _attend_in_cuda(self, output: torch.Tensor) -> None:
        group = self.query.shape[1] // self.views[0].shape[2]
        tiles = tiles_of(self.query_lens[self.num_decodes :], group)
        rows, scale = self.rows, self.query.shape[2] ** -0.5
        prefill_attention(
            self.query, *self.views, rows.query_start_loc[self.num_decodes :], rows.seq_lens[self.num_decodes :],
            rows.block_table, rows.table_rows[self.num_decodes :], tiles, scale, output,
        )  # fmt: skip


def prefill(sweep: bool) -> None:
    ragged = [(0, int(n)) for n in torch.randint(256, 769, (64,), generator=torch.Generator().manual_seed(1))]
    cases = {**PREFILL, "64 of 256 to 768": ragged}
    for (num_heads, num_kv_heads, head_size), (name, lens) in itertools.product(PREFILL_HEADS, cases.items()):
        prompts = Prompts(lens, num_heads, num_kv_heads, head_size)
        shape = {"heads": num_heads, "kv_heads": num_kv_heads, "head_size": head_size, "case": name}
        plain = launch.prefill_config(head_size, torch.bfloat16)
        candidates = [None, "cuda", plain]
        if sweep:
            candidates += [config for config in PREFILL_CONFIGS if config != plain]
        first = None
        for config in candidates:
            fields = {"what": "prefill", **shape, "default": config is None}
            if isinstance(config, str):
                fields["kernel"] = config
            elif config is not None:
                fields |= {"block_m": config.block_m, "block_n": config.block_n, "warps": config.num_warps,
                           "stages": config.num_stages}
            else:
                fields["overlap"] = launch.overlap_serves(prompts.query, *prompts.views)
            try:
                taken, output = prompts.attend(config)
            except REFUSALS as error:
                show(**fields, refused=repr(error)[:200])
                continue
            if first is None:
                first = output.clone()
            wrong = (output.float() - first.float()).abs().max().item()
            show(**fields, us=taken * 1e6, tflop_s=prompts.flops / taken / 1e12, difference=wrong)
        if name == "8,192":
            library_prefill(prompts.query, num_kv_heads, shape)


def library_prefill(query: torch.Tensor, num_kv_heads: int, shape: dict[str, object]) -> None:
    """The same prompt through torch's own backends over contiguous keys and values."""
    tokens, num_heads, head_size = query.shape
    flops = 4 * num_heads * head_size * tokens * (tokens + 1) / 2
    q = query.transpose(0, 1).unsqueeze(0)  # [1, H, T, D]
    k, v = (torch.randn(1, num_kv_heads, tokens, head_size, device="cuda", dtype=q.dtype) for _ in range(2))
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        try:
            with sdpa_kernel(backend):
                taken = seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
        except RuntimeError as error:
            show(what="prefill_library", backend=backend.name, **shape, refused=repr(error)[:200])
            continue
        show(what="prefill_library", backend=backend.name, **shape, us=taken * 1e6, tflop_s=flops / taken / 1e12)


def small() -> None:
    """The step's small kernels, 64 launches in one graph, microseconds each."""
    for tokens in (1, 32, 256):
        x, residual = (torch.randn(tokens, 1024, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        weight = torch.randn(1024, device="cuda", dtype=torch.bfloat16)
        packed = torch.randn(tokens, 32, 128, device="cuda", dtype=torch.bfloat16)
        table = torch.rand(4096, 128, device="cuda")
        positions = torch.randint(0, 4096, (tokens,), device="cuda")
        cache = torch.randn(1024, 2, 8, BLOCK_SIZE, 128, device="cuda", dtype=torch.bfloat16)
        slots = torch.randperm(1024 * BLOCK_SIZE, device="cuda")[:tokens]
        views = cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
        runs = {
            "add_rms_norm": lambda: add_rms_norm(x, residual, weight, 1e-6),  # noqa: B023
            "apply_rope": lambda: apply_rope(positions, packed[:, :16], packed[:, 16:24], table),  # noqa: B023
            "reshape_and_cache": lambda: reshape_and_cache(packed[:, 16:24], packed[:, 24:], *views, slots),  # noqa: B023
        }
        for name, run in runs.items():
            graph = graph_of(lambda: [run() for _ in range(64)])  # noqa: B023
            show(what=name, tokens=tokens, us=seconds(graph.replay) / 64 * 1e6)


def compile_some(part: int, parts: int, only: str | None) -> None:
    """Fills Triton's disk cache with a share of the sweep's variants, in a process of its own; launches nothing."""
    run = JITFunction.run
    JITFunction.run = lambda self, *a, grid, warmup, **o: run(self, *a, grid=grid, warmup=True, **o)
    jobs = [("decode", h, c) for h in HEADS for c in DECODE_CONFIGS if only in (None, "decode")]
    jobs += [("prefill", h, c) for h in PREFILL_HEADS for c in PREFILL_CONFIGS if only in (None, "prefill")]
    for kind, (num_heads, num_kv_heads, head_size), config in jobs[part::parts]:
        query = torch.empty(16, num_heads, head_size, device="cuda", dtype=torch.bfloat16)
        cache = torch.empty(1, 2, num_kv_heads, BLOCK_SIZE, head_size, device="cuda", dtype=torch.bfloat16)
        views = cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
        numbers = torch.zeros(32, dtype=torch.int32, device="cuda")
        rows = launch.Rows(numbers, numbers[:16], numbers[None], numbers.long())
        common = launch._common_arguments(query, views[0], head_size**-0.5, None, None)
        try:
            if kind == "decode":
                launch._decode(query, *views, rows, query, 16, common, config, launch.SplitPlan(4, 64))
            else:
                launch._prefill(query, *views, rows, query, 0, common, config)
        except REFUSALS:
            pass  # the sweep will say so


def compile_all(only: str | None) -> None:
    parts = max(1, (os.cpu_count() or 2) - 1)
    spawn = multiprocessing.get_context("spawn")
    jobs = [spawn.Process(target=compile_some, args=(part, parts, only)) for part in range(parts)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["decode", "prefill", "small"])
    parser.add_argument("--sweep", action="store_true", help="other variants too")
    parser.add_argument("--layout", choices=["head", "token"], default="head", help="of the cache, for decode")
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.sweep:
        compile_all(args.only)
    rate = read_bandwidth()
    if args.only in (None, "decode"):
        decode(rate, args.sweep, args.layout)
    if args.only in (None, "prefill"):
        prefill(args.sweep)
    if args.only in (None, "small"):
        small()


if __name__ == "__main__":
    main()
