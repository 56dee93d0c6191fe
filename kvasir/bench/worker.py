"""`kvasir bench kernels`: the ops through their faces, beside what the device's memory can deliver.

The one module of this package that imports torch. Each timing walks over so many copies of its inputs that none of them
is found in a cache; on a card it is a graph replay, so that the host's launches are not part of it.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvasir import ops
from kvasir.errors import ConfigError
from kvasir.ops.dispatch import choices, platform_of

_WORKING_SET = {"cpu": 192 << 20, "cuda": 512 << 20}
"""Bytes read by one timing: more than a last-level cache holds."""
_MAX_COPIES = 2048
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Sizes:
    """Of the model whose steps are imitated: E hidden, I inner, H query heads, K KV heads, D head size."""

    hidden: int = 1024
    inner: int = 3072
    heads: int = 16
    kv_heads: int = 8
    head_size: int = 128


@dataclass(frozen=True)
class Case:
    """`make()` gives a call over inputs of its own; `num_bytes` are read and written by one call.

    Attributes:
        num_flops: multiplications and additions of a product; more rows than a few are bound by these.
    """

    op: str
    shape: str
    num_bytes: int
    make: Callable[[], Callable[[], Any]]
    num_flops: int = 0


def kernels(
    *,
    device: str,
    dtype: str,
    tokens: Sequence[int],
    sizes: Sizes,
    only: Sequence[str] = (),
    repeats: int = 7,
    threads: int | None = None,
    working_set: int | None = None,
) -> dict[str, Any]:
    """Microseconds a call, bytes a second, and the fraction of the measured bandwidth, for each op and step size.

    Args:
        working_set: bytes that one timing reads.

    Raises:
        ConfigError: no such device, type or op.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device is cuda, and this torch finds no card.")
    if dtype not in _DTYPES:
        raise ConfigError(f"--dtype is {dtype!r}: it must be one of {', '.join(_DTYPES)}.")
    if any(t < 1 for t in tokens) or repeats < 1:
        raise ConfigError("--tokens and --repeats must be at least 1.")
    if threads:
        torch.set_num_threads(threads)
    where, working_set = torch.device(device), working_set or _WORKING_SET[device]
    torch.manual_seed(0)
    cases = [case for t in tokens for case in _cases(t, sizes, where, _DTYPES[dtype])]
    known = dict.fromkeys(case.op for case in cases)
    unknown = [name for name in only if name not in known]
    if unknown:
        raise ConfigError(f"--ops names {unknown[0]!r}; there are {', '.join(known)}.")
    with torch.inference_mode():
        rate = _read_bandwidth(where, working_set, repeats)
        found = [_measure(case, where, working_set, rate, repeats) for case in cases if not only or case.op in only]
    served = {c.op: c.implementation for c in choices(platform_of(where))}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "dtype": dtype,
        "bandwidth_gb_s": rate / 1e9,
        "kernels": [{**row, "implementation": served.get(row["op"], "")} for row in found],
    }


def _cases(t: int, s: Sizes, device: torch.device, dtype: torch.dtype) -> list[Case]:
    size = dtype.itemsize

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device).to(dtype)

    def bind(op: Callable[..., Any], *make: Callable[[], Any]) -> Callable[[], Callable[[], Any]]:
        def one() -> Callable[[], Any]:
            inputs = [m() for m in make]
            return lambda: op(*inputs)

        return one

    def positions() -> torch.Tensor:
        return torch.randint(0, 4096, (t,), device=device)

    def qkv_heads() -> torch.Tensor:
        return new(t, s.heads + 2 * s.kv_heads, s.head_size)

    def rope() -> Callable[[], Any]:
        at, x, table = positions(), qkv_heads(), torch.rand(4096, s.head_size, device=device)
        return lambda: ops.apply_rope(at, x[:, : s.heads], x[:, s.heads : s.heads + s.kv_heads], table)

    def write() -> Callable[[], Any]:
        x, blocks = qkv_heads(), -(-t // 16) + 1
        cache = [new(blocks, 16, s.kv_heads, s.head_size) for _ in range(2)]
        slots = torch.randperm(blocks * 16, device=device)[:t]
        return lambda: ops.reshape_and_cache(x[:, s.heads : -s.kv_heads], x[:, -s.kv_heads :], *cache, slots)

    e, i, qkv = s.hidden, s.inner, (s.heads + 2 * s.kv_heads) * s.head_size
    turned, written = t * (s.heads + s.kv_heads) * s.head_size, t * s.kv_heads * s.head_size

    def eps() -> float:
        return 1e-6

    return [
        Case("rms_norm", f"{t} x {e}", 2 * t * e * size, bind(ops.rms_norm, lambda: new(t, e), lambda: new(e), eps)),
        Case(
            "add_rms_norm", f"{t} x {e}", 4 * t * e * size,
            bind(ops.add_rms_norm, lambda: new(t, e), lambda: new(t, e), lambda: new(e), eps),
        ),
        Case("silu_and_mul", f"{t} x {2 * i}", 3 * t * i * size, bind(ops.silu_and_mul, lambda: new(t, 2 * i))),
        Case("apply_rope", f"{t} x {s.heads + s.kv_heads} x {s.head_size}", 2 * turned * size, rope),
        Case("reshape_and_cache", f"{t} x {s.kv_heads} x {s.head_size}", 4 * written * size, write),
        Case(
            "linear", f"{t} x {e} -> {qkv}", (qkv * e + t * (e + qkv)) * size,
            bind(ops.linear, lambda: new(t, e), lambda: new(qkv, e)), 2 * t * e * qkv,
        ),
        Case(
            "gated_linear", f"{t} x {e} -> {i}", (2 * i * e + t * (e + i)) * size,
            bind(ops.gated_linear, lambda: new(t, e), lambda: new(2 * i, e)), 4 * t * e * i,
        ),
        Case(
            "norm_linear", f"{t} x {e} -> {qkv}", (qkv * e + t * (3 * e + qkv)) * size,
            bind(ops.norm_linear, lambda: new(t, e), lambda: new(t, e), lambda: new(e), eps, lambda: new(qkv, e)),
            2 * t * e * qkv,
        ),
        Case(
            "norm_gated_linear", f"{t} x {e} -> {i}", (2 * i * e + t * (3 * e + i)) * size,
            bind(
                ops.norm_gated_linear, lambda: new(t, e), lambda: new(t, e), lambda: new(e), eps, lambda: new(2 * i, e)
            ),
            4 * t * e * i,
        ),
    ]  # fmt: skip


def _measure(case: Case, device: torch.device, working_set: int, rate: float, repeats: int) -> dict[str, Any]:
    copies = max(2, min(_MAX_COPIES, math.ceil(working_set / case.num_bytes)))
    calls = [case.make() for _ in range(copies)]

    def all_of_them() -> None:
        for call in calls:
            call()

    seconds = _seconds(all_of_them, device, repeats) / copies
    moved = case.num_bytes / seconds
    return {
        "op": case.op,
        "shape": case.shape,
        "us": seconds * 1e6,
        "gb_s": moved / 1e9,
        "gflop_s": case.num_flops / seconds / 1e9,
        "fraction": moved / rate,
    }


def _read_bandwidth(device: torch.device, working_set: int, repeats: int) -> float:
    """Bytes a second of a sum over more than any cache holds."""
    data = torch.randn(max(1, working_set * 2 // 4), device=device)
    return data.nbytes / _seconds(lambda: data.sum(), device, repeats)


def _seconds(run: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median of `repeats` timings."""
    run()
    return statistics.median(_on_card(run, repeats) if device.type == "cuda" else [_once(run) for _ in range(repeats)])


def _once(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _on_card(run: Callable[[], Any], repeats: int) -> list[float]:
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        run()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin()
        run()
        graph.capture_end()
    graph.replay()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return times
