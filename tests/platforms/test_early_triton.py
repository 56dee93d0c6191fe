"""Triton's key and driver, made by a process that imports no torch."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("triton")

from triton.runtime import build, cache

from kvasir.platforms.early_triton import EarlyTriton, build_driver


def test_the_key_is_tritons_own() -> None:
    early = EarlyTriton.begin()
    assert early is not None
    with os.fdopen(os.dup(early.answer)) as pipe:
        assert pipe.read() == cache.triton_key() + "\n"
    assert early.ends_before(time.monotonic() + 60)
    early.stop()


def test_one_that_is_stopped_leaves_half_a_key_at_most() -> None:
    early = EarlyTriton()
    pid = early._child.pid
    early.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    early.stop()


def test_torch_is_not_imported() -> None:
    code = """if True:
        import sys
        from kvasir.platforms import early_triton
        early_triton._prepare(1)
        assert "torch" not in sys.modules
    """
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == cache.triton_key() + "\n"


def test_the_driver_is_compiled_once_and_not_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from triton.backends.nvidia import driver

    monkeypatch.setattr(driver, "libcuda_dirs", driver.libcuda_dirs.__wrapped__)  # others look elsewhere
    monkeypatch.setattr(driver, "library_dirs", driver.library_dirs.__wrapped__)
    (tmp_path / "libcuda.so.1").touch()
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    built = []

    def compile_it(name: str, source: str, folder: str, *_: object) -> str:
        built.append(name)
        (Path(folder) / "made").write_text("not a library")
        return str(Path(folder) / "made")

    monkeypatch.setattr(build, "_build", compile_it)
    for _ in range(2):
        build_driver()
    assert built == ["cuda_utils"]
