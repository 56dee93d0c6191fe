"""Kernels compiled by another process, for a card that is not there."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from triton import knobs
from triton.runtime import build, cache
from triton.runtime.jit import JITFunction

from kvasir.compilation import CompileAhead, compiler_process
from kvasir.compilation import ahead as ahead_module
from kvasir.ops.cuda import nvrtc
from kvasir.ops.cuda.kernel import Kernel
from kvasir.ops.target import Target, compile_for
from kvasir.ops.triton import paged_attention
from kvasir.ops.triton.activation import silu_and_mul
from kvasir.ops.triton.norm import _rms_norm_kernel, add_rms_norm, rms_norm
from kvasir.platforms.early_triton import EarlyTriton

LIBCUDA = "".join(
    f"int {name}(void) {{ return 1; }}\n"
    for name in (
        "cuGetErrorString", "cuPointerGetAttribute", "cuCtxGetCurrent", "cuDeviceGet", "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent", "cuFuncSetAttribute", "cuLaunchKernelEx",
    )
)  # fmt: skip


IN_GLUON_TEST = paged_attention.decode_kernel, paged_attention.prefill_overlap.prefill_overlap_kernel


CARD = Target("cuda", (9, 0), 7)
"""No other test compiles for it, so no kernel is there already."""
META = torch.device("meta")


@pytest.fixture
def ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[CompileAhead]:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "triton_key", cache.triton_key)  # put back, whatever is put there
    monkeypatch.setattr(ahead_module, "LAUNCHER", "")  # what launches a kernel needs a card's library
    made = CompileAhead(CARD)
    yield made
    made.stop()
    for function in (_rms_norm_kernel, silu_and_mul.__globals__["_silu_and_mul_kernel"], *IN_GLUON_TEST):
        function.device_caches.pop(CARD, None)


def steps(width: int) -> Callable[[], None]:
    x = torch.zeros(4, width, dtype=torch.bfloat16, device=META)

    def run() -> None:
        with compile_for(CARD):
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
    assert not _rms_norm_kernel.device_caches[CARD][0], "a launch would take what is noted for a kernel"
    assert ahead.wait() == 3
    run()
    assert sorted(looked_up) == [("_rms_norm_kernel", True), ("_rms_norm_kernel", True), ("_silu_and_mul_kernel", True)]


def test_kernels_in_gluon_are_among_them(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch, looked_up: list) -> None:
    query = torch.zeros(9, 4, 64, dtype=torch.float16, device=META)
    cells = torch.zeros(2, 16, 2, 64, dtype=torch.float16, device=META)
    numbers = torch.zeros(3, dtype=torch.int32, device=META)
    rows = numbers, numbers[1:], numbers[None], torch.zeros(2, dtype=torch.int64, device=META)

    def run() -> None:
        with compile_for(CARD):
            paged_attention.paged_attention(query, cells, cells, *rows, 1.0, num_decodes=1)

    ahead.start()
    ahead.queue(run)
    assert ahead.wait() == 2
    run()
    assert sorted(looked_up) == [("decode_kernel", True), ("prefill_overlap_kernel", True)]
    again, noted = CompileAhead(CARD), []
    again._send = noted.append
    for function in IN_GLUON_TEST:
        function.device_caches[CARD][0].clear()
    again.queue(run)
    assert len(noted) == 2 and all(map(compiler_process._is_compiled, noted)), "found where jobs are taken, too"


def test_triton_is_hashed_by_another_process(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cache.triton_key()
    ahead._early = EarlyTriton()
    monkeypatch.setattr(cache, "triton_key", lambda: pytest.fail("hashed here"))
    ahead.start()
    ahead.wait()
    assert cache.triton_key() == expected


def test_what_is_on_disk_takes_no_compiler(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    run = steps(736)
    ahead.start()
    ahead.queue(run)
    ahead.wait()
    again = CompileAhead(CARD)
    monkeypatch.setattr(compiler_process._Compilers, "_fork", lambda self: os.abort())
    again.start()
    again.queue(run)
    process, meanwhile = again._process, []
    again._jobs = os.close(again._jobs) or -1
    assert os.waitpid(process.pid, 0) == (process.pid, 0), "it forked"
    assert again._early.ends_before(time.monotonic() + 60)
    assert again.wait(meanwhile=lambda: meanwhile.append(1)) == 3
    assert not meanwhile, "nothing to wait for"


def test_launchers_are_built_once_and_found(
    ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, looked_up: list
) -> None:
    """With a driver's library of paper, so that the C code links and loads; Triton's driver itself is only linked."""
    from triton.backends.nvidia import driver as nvidia
    from triton.backends.nvidia.driver import CudaLauncher, CudaUtils

    (tmp_path / "libcuda.c").write_text(LIBCUDA)
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "libcuda.c", "-w", "-fno-builtin"],
        check=True,
    )
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", str(tmp_path))
    monkeypatch.setattr(nvidia, "libcuda_dirs", nvidia.libcuda_dirs.__wrapped__)  # others look elsewhere
    monkeypatch.setattr(nvidia, "library_dirs", nvidia.library_dirs.__wrapped__)
    monkeypatch.setattr(ahead_module, "LAUNCHER", "triton.backends.nvidia.driver:CudaLauncher")
    run = steps(800)
    first = CompileAhead(CARD)
    first.start()
    first.queue(run)
    first.wait()
    assert len(list(tmp_path.rglob("cuda_utils*.so"))) == 1
    launchers = list(tmp_path.rglob("__triton_launcher*.so"))
    assert len(launchers) == 3, "the two norms have arguments of other types"
    for launcher in launchers:
        launcher.unlink()
    again = CompileAhead(CARD)
    again.start()
    again.queue(run)
    again.wait()
    assert sorted(tmp_path.rglob("__triton_launcher*.so")) == sorted(launchers), "though the kernels were there"
    monkeypatch.setattr(build, "_build", lambda *args: pytest.fail("built again"))
    monkeypatch.setattr(build, "_load_module_from_path", lambda name, path: type("module", (), {"launch": path}))
    run()
    with pytest.raises(AttributeError, match="PyCUtensorMap"):  # found, and nothing of it is needed here
        CudaUtils()
    used = set()
    for function in (_rms_norm_kernel, silu_and_mul.__globals__["_silu_and_mul_kernel"]):
        for kernel in function.device_caches[CARD][0].values():
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
    process, began, meanwhile = ahead._process.pid, time.monotonic(), []
    ahead.wait(meanwhile=lambda: meanwhile.append(1))
    assert time.monotonic() - began < 10
    assert meanwhile == [1]
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_nothing_is_noted_without_a_card() -> None:
    ahead = CompileAhead(Target("cpu"))
    ahead.start()
    ahead.queue(lambda: pytest.fail("a step was run"))
    assert ahead.wait(meanwhile=lambda: pytest.fail("a step was run")) == 0


def test_what_cannot_be_noted_breaks_nothing(ahead: CompileAhead, caplog: pytest.LogCaptureFixture) -> None:
    run = steps(992)

    def run_and_fail() -> None:
        run()
        raise NotImplementedError("no such operation\non paper")

    ahead.start()
    ahead.queue(run_and_fail)
    assert ahead.wait() == 3, "what was noted before is compiled"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "not all kernels are compiled ahead, the others when they are needed: NotImplementedError: no such operation"
    ]


def test_a_start_that_fails_leaves_no_process(ahead: CompileAhead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_process, "_is_compiled", lambda job: False)
    monkeypatch.setattr(compiler_process, "_function", lambda job: time.sleep(60))
    ahead.start()
    ahead.queue(steps(1056))
    children = [ahead._process.pid, ahead._early._child.pid]
    ahead.stop()
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_process_that_is_gone_holds_no_launch_up(ahead: CompileAhead) -> None:
    ahead.start()
    ahead._process.stop()
    ahead.queue(steps(1120))
    assert ahead.wait() == 3
