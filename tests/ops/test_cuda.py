"""The CUDA kernels' launches as far as they go without a card: variants, the disk cache, what a start notes."""

import ctypes
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kvasir.ops.cuda import kernel as kernels
from kvasir.ops.cuda import nvrtc
from kvasir.ops.cuda.kernel import Kernel, source_folder
from kvasir.ops.cuda.skinny_linear import SkinnyConfig, kernel_for, skinny_config

PROCESSORS = 132
MAX_SHARED_BYTES = 227 * 1024


def variant(defines: dict[str, int] | None = None) -> Kernel:
    return Kernel("skinny_linear.cu", "skinny_linear", defines or {"WARPS": 8}, 256, 1024, (9, 0))


@pytest.mark.parametrize(
    ("outputs", "inputs", "gated", "want"),
    [
        (4096, 1024, False, SkinnyConfig(2, 2, 4, 1)),  # Qwen3-0.6B: qkv, o, gate and up, down
        (1024, 2048, False, SkinnyConfig(2, 2, 4, 4)),
        (3072, 1024, True, SkinnyConfig(3, 1, 8, 1)),
        (1024, 3072, False, SkinnyConfig(2, 2, 4, 4)),
        (6144, 4096, False, None),  # Llama-3.1-8B's are too large
        (14336, 4096, True, None),
        (151936, 1024, False, None),
    ],
)
def test_the_variant_of_a_shape(outputs: int, inputs: int, gated: bool, want: SkinnyConfig | None) -> None:
    assert skinny_config(outputs, inputs, gated, PROCESSORS) == want


@given(st.integers(2, 20000), st.integers(1, 600), st.booleans(), st.integers(1, 200), st.integers(1, 2))
def test_every_variant_fits_a_card(outputs: int, blocks: int, gated: bool, processors: int, row_tiles: int) -> None:
    config = skinny_config(outputs, 32 * blocks, gated, processors)
    if config is None:
        return
    kernel = kernel_for.__wrapped__(row_tiles, 32 * blocks, gated, torch.bfloat16, config, (9, 0))
    assert kernel._shared_bytes <= MAX_SHARED_BYTES
    assert kernel._threads == 32 * config.warps <= 1024
    assert -(-outputs // config.columns) * config.splits <= processors
    assert config.splits <= 8, "the largest cluster that every card takes"


def test_a_kernel_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, ...]] = []

    def compiler(source: str, name: str, options: tuple[str, ...]) -> bytes:
        calls.append(options)
        return b"code " + str(len(calls)).encode()

    monkeypatch.setenv("KVASIR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvrtc, "compile_cubin", compiler)
    assert not variant().recipe.kept()
    assert variant().recipe.binary() == variant().recipe.binary() == b"code 1"
    assert variant().recipe.kept()
    assert variant({"WARPS": 4}).recipe.binary() == b"code 2", "other options are another kernel"
    assert calls[0][0] == "--gpu-architecture=sm_90a" and "-DWARPS=8" in calls[0]
    assert (tmp_path / "cuda").stat().st_mode & 0o777 == 0o700, "what lies there is code"
    assert not [path for path in (tmp_path / "cuda").iterdir() if path.suffix != ".cubin"]


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KVASIR_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda *a: b"code")
    assert variant().recipe.binary() == b"code"


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVASIR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvrtc, "library_path", lambda: None)
    nvrtc._library.cache_clear()
    with pytest.raises(nvrtc.CompileError, match="libnvrtc"):
        variant().recipe.binary()
    nvrtc._library.cache_clear()


def test_a_start_notes_what_it_would_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Kernel] = []
    monkeypatch.setattr(kernels, "submit", noted.append)
    kernel = variant()
    kernel.launch((1, 1), 1, True, ctypes.c_int(3))
    assert noted == [kernel]


def test_the_sources_travel_with_a_checkout() -> None:
    folder = source_folder()
    assert folder is not None and (folder / "skinny_linear.cu").is_file()
