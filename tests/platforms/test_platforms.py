"""What the platform says about the machine, against files a container would show."""

import subprocess
import sys
from pathlib import Path

import pytest

from kvasir.errors import ConfigError
from kvasir.platforms import detect
from kvasir.platforms.cpu import cpu_cores, host_memory

GIB = 1 << 30


def test_cpu_by_name_needs_no_torch() -> None:
    code = (
        "import sys; from kvasir.platforms import detect; p = detect('cpu'); "
        "assert p.memory()[1] > 0 and p.name; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="tpu"):
        detect("tpu")


def test_cuda_without_a_card_is_refused_with_the_reason() -> None:
    import torch

    if torch.cuda.is_available():
        assert detect().device_type == "cuda"
    else:
        assert detect().device_type == "cpu"
        with pytest.raises(ConfigError, match="cuda"):
            detect("cuda")


@pytest.mark.parametrize(("text", "bound"), [("150000 100000", 1), ("max 100000", 10**6), ("", 10**6)])
def test_cores_obey_the_container_quota(tmp_path: Path, text: str, bound: int) -> None:
    if text:
        (tmp_path / "cpu.max").write_text(text + "\n")
    assert 1 <= cpu_cores(tmp_path) <= bound


@pytest.mark.parametrize(("limit", "want"), [(str(4 * GIB), (3 * GIB, 4 * GIB)), ("max", (20 * GIB, 32 * GIB))])
def test_memory_obeys_the_container_limit(tmp_path: Path, limit: str, want: tuple[int, int]) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text(str(GIB))
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: {32 * GIB // 1024} kB\nMemFree: 9 kB\nMemAvailable: {20 * GIB // 1024} kB\n")
    assert host_memory(tmp_path, meminfo) == want


def test_opening_a_cpu_sets_its_threads() -> None:
    import torch

    before = torch.get_num_threads()
    try:
        detect("cpu").open(1)
        assert torch.get_num_threads() == 1
        detect("cpu").open()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zeros_are_zeros_and_cost_no_memory_until_written(dtype: str) -> None:
    import torch

    def resident() -> int:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * 4096

    before = resident()
    buffer = detect("cpu").zeros((64, 1 << 20), getattr(torch, dtype))
    assert resident() - before < 8 << 20
    assert buffer.shape == (64, 1 << 20) and buffer.dtype == getattr(torch, dtype)
    assert not buffer[::7, ::1000].any()
    buffer[3, 5] = 2.0
    assert buffer[3].sum() == 2.0


def test_a_cpu_does_not_run_what_it_cannot_measure() -> None:
    assert detect("cpu").peak_of(lambda: pytest.fail("ran")) == 0
