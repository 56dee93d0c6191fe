"""Kernels compiled by another process, for a card that is not there."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from triton import knobs
from triton.runtime import build, cache, driver
from triton.runtime.jit import JITFunction

from kvasir.compilation import CompileAhead, compiler_process
from kvasir.compilation import ahead as ahead_module
from kvasir.ops import target
from kvasir.ops.cuda import nvrtc
from kvasir.ops.cuda.kernel import Kernel
from kvasir.ops.target import _PaperDriver
from kvasir.ops.triton import paged_attention
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.norm import _rms_norm_kernel, add_rms_norm, rms_norm
from tests.aot.conftest import H100

LIBCUDA = "".join(
    f"int {name}(void) {{ return 1; }}\n"
    for name in (
        "cuGetErrorString", "cuPointerGetAttribute", "cuCtxGetCurrent", "cuDeviceGet", "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent", "cuFuncSetAttribute", "cuLaunchKernelEx",
    )
)  # fmt: skip


IN_GLUON_TEST = paged_attention.decode_kernel, paged_attention.prefill_overlap.prefill_overlap_kernel


class NoLauncher:
    """What launches a kernel needs a card's library."""

    def __init__(self, source: object, metadata: object):
        pass


class OtherCard(_PaperDriver):
    launcher_cls = NoLauncher

    def get_current_device(self) -> int:
        return 7  # no other test compiles for it, so no kernel is there already


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CompileAhead]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", OtherCard(H100))
    monkeypatch.setattr(cache, "triton_key", cache.triton_key)  # put back, whatever is put there
    made = CompileAhead(torch.device("cpu"))
    made._compiles = True
    yield made
    made.stop()
    for function in (_rms_norm_kernel, silu_and_mul.__globals__["_silu_and_mul_kernel"], *IN_GLUON_TEST):
        function.device_caches.pop(7, None)


def steps(width: int) -> Callable[[], None]:
    x = torch.zeros(4, width, dtype=torch.bfloat16)

    def run() -> None:
        for _ in range(50):
            rms_norm(x, x[0], 1e-6)
            add_rms_norm(x, x, x[0], 1e-6)
            silu_and_mul(x)

    return run


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Kernels that launches asked Triton for since, and whether its disk cache had them; nothing is launched."""
    found: list[tuple[str, bool]] = []
    run = JITFunction.run

    def compile_only(self: JITFunction, *args: object, grid: object, warmup: bool, **options: object) -> object:
        return run(self, *args, grid=grid, warmup=True, **options)

    def listen(*, src, metadata, metadata_group, times, cache_hit) -> None:
        found.append((src.name, cache_hit))

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(knobs.compilation, "listener", listen)
    return found


def test_real_launches_find_every_kernel_on_disk(ahead: CompileAhead, tmp_path: Path, looked_up: list) -> None:
    run = steps(672)
    ahead.start()
    ahead.queue(run)
    assert not looked_up, "noted, not compiled"
    assert not _rms_norm_kernel.device_caches[7][0], "a launch would take what is noted for a kernel"
    assert ahead.wait() == 3
    run()
    assert sorted(looked_up) == [("_rms_norm_kernel", True), ("_rms_norm_kernel", True), ("_silu_and_mul_kernel", True)]


def test_kernels_in_gluon_are_among_them(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch, looked_up: list) -> None:
    monkeypatch.setattr(target, "_stand_in", ("cpu", H100))
    query, cells = torch.zeros(9, 4, 64, dtype=torch.float16), torch.zeros(2, 16, 2, 64, dtype=torch.float16)
    numbers = torch.tensor([0, 1, 9], dtype=torch.int32)
    rows = numbers, numbers[1:], numbers[None], numbers[:2].long()

    def run() -> None:
        paged_attention.paged_attention(query, cells, cells, *rows, 1.0, num_decodes=1)

    ahead.start()
    ahead.queue(run)
    assert ahead.wait() == 2
    run()
    assert sorted(looked_up) == [("decode_kernel", True), ("prefill_overlap_kernel", True)]
    again, noted = CompileAhead(torch.device("cpu")), []
    again._compiles, again._send = True, noted.append
    for function in IN_GLUON_TEST:
        function.device_caches[7][0].clear()
    again.queue(run)
    assert len(noted) == 2 and all(map(compiler_process._is_compiled, noted)), "found where jobs are taken, too"


def test_triton_is_hashed_by_the_other_process(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cache.triton_key()
    monkeypatch.setattr(cache, "triton_key", lambda: pytest.fail("hashed here"))
    monkeypatch.setattr(compiler_process, "_triton_key", lambda: expected)
    ahead.start()
    ahead.wait()
    assert cache.triton_key() == expected


def test_what_is_on_disk_takes_no_compiler(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    run = steps(736)
    ahead.start()
    ahead.queue(run)
    ahead.wait()
    again = CompileAhead(torch.device("cpu"))
    again._compiles = True
    monkeypatch.setattr(compiler_process._Compilers, "_fork", lambda self: os.abort())
    again.start()
    again.queue(run)
    process, meanwhile = again._process, []
    again._jobs = os.close(again._jobs) or -1
    assert os.waitpid(process, 0) == (process, 0), "it forked"
    again._process = 0
    assert again.wait(meanwhile=lambda: meanwhile.append(1)) == 3
    assert not meanwhile, "nothing to wait for"


def test_launchers_are_built_once_and_found(
    ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, looked_up: list
) -> None:
    """With a driver's library of paper, so that the C code links and loads."""
    from triton.backends.nvidia.driver import CudaLauncher

    (tmp_path / "libcuda.c").write_text(LIBCUDA)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "libcuda.c", "-w", "-fno-builtin"],
        check=True,
    )
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", str(tmp_path))
    monkeypatch.setattr(OtherCard, "launcher_cls", CudaLauncher)
    run = steps(800)
    ahead.start()
    ahead.queue(run)
    ahead.wait()
    launchers = list(tmp_path.rglob("__triton_launcher*.so"))
    assert len(launchers) == 3, "the two norms have arguments of other types"
    for launcher in launchers:
        launcher.unlink()
    again = CompileAhead(torch.device("cpu"))
    again._compiles = True
    again.start()
    again.queue(run)
    again.wait()
    assert sorted(tmp_path.rglob("__triton_launcher*.so")) == sorted(launchers), "though the kernels were there"
    monkeypatch.setattr(build, "_build", lambda *args: pytest.fail("built again"))
    monkeypatch.setattr(build, "_load_module_from_path", lambda name, path: type("module", (), {"launch": path}))
    run()
    used = set()
    for function in (_rms_norm_kernel, silu_and_mul.__globals__["_silu_and_mul_kernel"]):
        for kernel in function.device_caches[7][0].values():
            used.add(CudaLauncher(kernel.src, kernel.metadata).launch)
    assert used == {str(path) for path in launchers}


def test_a_cuda_kernel_is_compiled_there_too(
    ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = Kernel("skinny_linear.cu", "skinny_linear", {"SPLITS": 1}, 256, 0, (9, 0))
    monkeypatch.setenv("KVASIR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(nvrtc, "compile_cubin", lambda source, name, options: str(os.getpid()).encode())
    ahead.start()

    def run() -> None:
        for _ in range(50):
            kernel.launch((1, 1), 1, True)

    ahead.queue(run)
    assert ahead.wait() == 1
    assert kernel.recipe.kept()
    assert kernel.recipe.binary() != str(os.getpid()).encode()


def test_a_compiler_that_dies_takes_one_kernel_with_it(
    ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch, looked_up: list
) -> None:
    run, serve = steps(864), compiler_process._function

    def die(job: compiler_process.TritonJob) -> object:
        if job.name == "_silu_and_mul_kernel" and os.getpid() != process:
            os._exit(3)
        return serve(job)

    monkeypatch.setattr(compiler_process, "_function", die)
    monkeypatch.setattr(compiler_process, "_is_compiled", lambda job: False)
    monkeypatch.setattr(compiler_process, "_has_launcher", lambda job: False)
    process = os.getpid()
    ahead.start()
    ahead.queue(run)
    ahead.wait()
    run()
    assert sorted(hit for _, hit in looked_up) == [False, True, True]


def test_one_that_hangs_holds_nothing_up(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead_module, "PATIENCE_S", 0.5)
    monkeypatch.setattr(compiler_process, "_triton_key", lambda: "")
    monkeypatch.setattr(compiler_process, "_is_compiled", lambda job: False)
    monkeypatch.setattr(compiler_process, "_has_launcher", lambda job: False)
    monkeypatch.setattr(compiler_process, "_function", lambda job: time.sleep(60))
    ahead.start()
    ahead.queue(steps(928))
    process, began, meanwhile = ahead._process, time.monotonic(), []
    ahead.wait(meanwhile=lambda: meanwhile.append(1))
    assert time.monotonic() - began < 10
    assert meanwhile == [1]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_nothing_is_noted_without_a_card() -> None:
    ahead = CompileAhead(torch.device("cpu"))
    ahead.start()
    ahead.queue(lambda: pytest.fail("a step was run"))
    assert ahead.wait(meanwhile=lambda: pytest.fail("a step was run")) == 0
