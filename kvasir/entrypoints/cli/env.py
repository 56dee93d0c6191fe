"""`kvasir env`: what a bug report needs. Each line is found on its own: a broken part does not hide the rest."""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module, metadata

_PACKAGES = (
    "torch", "triton", "numpy", "msgspec", "tokenizers", "safetensors", "jinja2", "starlette", "uvicorn", "uvloop",
    "httptools", "prometheus-client", "transformers",
)  # fmt: skip


def run(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("kvasir env", description="Versions, devices and backends of this machine.")
    parser.add_argument("--json", action="store_true", help="As one JSON object.")
    given = parser.parse_args(argv)
    rows = list(_rows())
    if given.json:
        import json

        print(json.dumps(dict(rows), indent=2))
    else:
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            print(f"{name:<{width}}  {value}")
    return 0


def _rows() -> Iterator[tuple[str, str]]:
    from kvasir import __version__

    yield "kvasir", __version__
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "system", platform.platform()
    yield "cores", _tolerant(lambda: f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}")
    yield "memory", _tolerant(lambda: f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")
    for name in _PACKAGES:
        yield name, _version(name)
    yield "devices", _tolerant(_devices)
    yield "native library", _tolerant(lambda: str(import_module("kvasir.platforms.native").native_library()))
    yield "attention", _tolerant(_attention)
    try:
        yield from _ops()
    except Exception as e:
        yield "ops", f"not known ({type(e).__name__}: {e})"
    for name, value in sorted(os.environ.items()):
        if name.startswith("KVASIR_") or name in ("CUDA_VISIBLE_DEVICES", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
            yield name, "(set)" if "KEY" in name else value


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _tolerant(read: Callable[[], str]) -> str:
    try:
        return read()
    except Exception as e:
        return f"not known ({type(e).__name__}: {e})"


def _devices() -> str:
    """By name, not by import: this package may not depend on torch."""
    torch = import_module("torch")
    if not torch.cuda.is_available():
        return "cpu"
    cards = range(torch.cuda.device_count())
    return (
        ", ".join(
            f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
            for i in cards
        )
        + f"; CUDA {torch.version.cuda}"
    )


def _attention() -> str:
    """What the selector would take for a usual model, with its reasons."""
    need = import_module("kvasir.attention.backend").AttentionNeed
    torch, device = import_module("torch"), import_module("kvasir.platforms").detect()
    dtype = torch.float32 if device.device_type == "cpu" else torch.bfloat16
    usual = need(device.device_type, dtype, 128, 16, 8, 16, capability=device.capability)
    backend, reasons = import_module("kvasir.attention.selector").get_attn_backend(usual)
    return f"{backend.name} ({'; '.join(reasons)})"


def _ops() -> Iterator[tuple[str, str]]:
    platform_name = import_module("kvasir.platforms").detect().device_type
    for choice in import_module("kvasir.ops").choices(platform_name):
        yield f"op {choice.op}", f"{choice.implementation} ({choice.why})"
