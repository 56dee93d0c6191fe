"""The process that compiles while its parent builds the model and reads the weights.

Forked while there is no model, it has all modules already and never touches the device. It reads jobs as lines of JSON
from a pipe until that is closed. What the caches on disk do not have it hands to children of its own, up to
one for each core: the first kernels compile while the last are still being noted, and the parent pays for one fork.

    Job       what a launch asked Triton for, in Triton's own words, or the recipe of a CUDA kernel
    run       the process: jobs in, files in the caches out
    compile_all  the same for jobs that are all known, by children of the calling process
"""

import contextlib
import functools
import hashlib
import json
import os
import select
import socket
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from kvasir.ops.cuda.kernel import Recipe

MAX_COMPILERS = 16
"""Processes that compile at a time, if there are so many cores; each takes up to 200 MB."""


class TritonJob(msgspec.Struct, tag="triton"):
    """One variant of one Triton kernel.

    Attributes:
        module, name: where the kernel's function is found.
        specialization: types, constants and options, as `JITFunction.preload` takes them.
        target: backend, architecture and threads of a warp.
        launcher: what makes the C function that launches it, "module:class"; empty: another job's will serve.
    """

    module: str
    name: str
    specialization: str
    target: tuple[str, int | str, int]
    launcher: str = ""


class CudaJob(msgspec.Struct, tag="cuda"):
    """One variant of one kernel in csrc/cuda."""

    recipe: Recipe


Job = TritonJob | CudaJob


def run(jobs: int, answers: int, key: int) -> None:
    """Until `jobs` is closed and all is compiled. First hands Triton's key on, which comes from `key`, to `answers`."""
    _take_triton_key(key)
    with contextlib.suppress(OSError), os.fdopen(answers, "w") as pipe:
        pipe.write(_triton_key() + "\n")
    _Compilers(jobs).run()


def compile_all(jobs: Sequence[Job], done: Callable[[], None] = lambda: None) -> None:
    """Leaves all in the caches on disk; calls `done` after each.

    Raises:
        Exception: whatever the compiler says of the first that cannot be compiled.
    """
    with tempfile.TemporaryFile() as lines, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, which the children do not use
        for job in jobs:
            lines.write(msgspec.json.encode(job) + b"\n")
        lines.seek(0)
        _Compilers(lines.fileno(), done).run()
    for job in jobs:
        if not kept_files(job):
            _compile(job)


def _triton_key() -> str:
    """A hash of all of Triton, 400 MB, that is a part of every key of its cache."""
    from triton.runtime.cache import triton_key

    return triton_key()


def _take_triton_key(pipe: int) -> None:
    """Spares this process the hashing, if somebody else has done it."""
    with os.fdopen(pipe) as said:
        key = said.read()
    if key.endswith("\n"):
        from triton.runtime import cache

        cache.triton_key = functools.cache(lambda: key[:-1])


class _Compilers:
    """Children that compile one thing at a time: a kernel, or the C function that launches it."""

    def __init__(self, jobs: int, done: Callable[[], None] = lambda: None):
        self._jobs = jobs
        self._done = done
        self._unread = b""
        self._kernels: deque[bytes] = deque()
        self._launchers: deque[bytes] = deque()  # these come second: no one of them takes long
        self._idle: list[socket.socket] = []
        self._busy: list[socket.socket] = []
        self._most = min(MAX_COMPILERS, os.cpu_count() or 1)

    def run(self) -> None:
        is_open = True
        while is_open or self._kernels or self._launchers or self._busy:
            sources = [self._jobs, *self._busy] if is_open else self._busy
            for source in select.select(sources, [], [])[0]:
                if source == self._jobs:
                    is_open = self._read()
                else:
                    self._busy.remove(source)
                    self._done()
                    if source.recv(1):  # else it has died, and with it what it was compiling
                        self._idle.append(source)
            while (waiting := self._kernels or self._launchers) and (self._idle or len(self._busy) < self._most):
                compiler = self._idle.pop() if self._idle else self._fork()
                self._busy.append(compiler)
                with contextlib.suppress(OSError):
                    compiler.sendall(waiting.popleft())
        for compiler in self._idle:
            compiler.close()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()

    def _read(self) -> bool:
        """Takes the jobs that are there; False when no more will come."""
        data = os.read(self._jobs, 1 << 16)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            job = msgspec.json.decode(line, type=Job)
            if _is_compiled(job):
                self._done()
            else:
                self._kernels.append(b"K" + line + b"\n")
            if isinstance(job, TritonJob) and job.launcher and not _has_launcher(job):
                self._launchers.append(b"L" + line + b"\n")
        return bool(data)

    def _fork(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        if os.fork():
            theirs.close()
            return ours
        try:
            for other in (ours, *self._idle, *self._busy):
                other.close()  # else nobody would hear that this process is gone
            _serve(theirs)
        finally:
            os._exit(0)


def _serve(orders: socket.socket) -> None:
    """One line, one file in a cache, one byte to say so."""
    for line in orders.makefile("rb"):
        job = msgspec.json.decode(line[1:], type=Job)
        with contextlib.suppress(Exception):  # whoever launches the kernel will meet the same error and say it
            if line.startswith(b"L"):
                _build_launcher(job)
            else:
                _compile(job)
        orders.sendall(b".")


def _compile(job: Job) -> None:
    if isinstance(job, CudaJob):
        job.recipe.binary()
    else:
        _function(job).preload(job.specialization)


class _Target:
    """As much of a driver as compiling takes."""

    def __init__(self, job: TritonJob):
        self._target = job.target

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(*self._target)

    def get_current_device(self) -> Any:
        """By this Triton keeps kernels of different targets apart."""
        return self._target


def _function(job: TritonJob) -> Any:
    """The kernel's JITFunction, ready to compile for the job's target."""
    from triton.runtime import driver

    driver.set_active(_Target(job))
    return getattr(import_module(job.module), job.name)


def _source(job: TritonJob) -> tuple[Any, Any, Any]:
    """-> what Triton would compile, by which backend, with which options: as `JITFunction.preload` puts it."""
    from triton.compiler import ASTSource

    function, said = _function(job), json.loads(job.specialization)
    if any(not isinstance(value, bool | int | float | str | None) for value in said["constant_vals"]):
        raise ValueError("a constant that only Triton itself can read")
    constants = dict(zip(map(tuple, said["constant_keys"]), said["constant_vals"], strict=True))
    attributes = dict(zip(map(tuple, said["attrs_keys"]), said["attrs_vals"], strict=True))
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in said["options"].items()}
    backend = function.device_caches[job.target][3]
    return ASTSource(function, said["signature"], constants, attributes), backend, backend.parse_options(options)


def _is_compiled(job: Job) -> bool:
    """Whether the kernel is on disk. A wrong no costs little: compiling it ends where it is found."""
    try:
        return bool(kept_files(job))
    except Exception:
        return False


def kept_files(job: Job) -> list[Path]:
    """What the caches on disk have of the kernel, found by the very key under which a launch looks for it."""
    from triton import knobs
    from triton._C.libtriton import get_cache_invalidating_env_vars
    from triton.runtime.cache import get_cache_key, get_cache_manager

    if isinstance(job, CudaJob):
        place = job.recipe.kept()
        return [place] if place else []
    source, backend, options = _source(job)
    key = get_cache_key(source, backend, options, get_cache_invalidating_env_vars())
    name = f"{source.name[:150]}.json"
    cached = get_cache_manager(hashlib.sha256(key.encode()).hexdigest()).get_group(name) or {}
    return [Path(file) for file in cached.values()] if name in cached and not knobs.compilation.always_compile else []


class _Unknown:
    """Facts of a kernel that is not compiled yet: a launcher keeps them, its C code does not depend on them."""

    def __getattr__(self, name: str) -> None:
        return None


class _NotBuilt(Exception):
    """Nothing on disk: building would begin here."""


def _has_launcher(job: TritonJob) -> bool:
    """Whether the C function is on disk. Kernels may have been compiled without, where there is no card's library."""
    from triton.runtime import build

    def stop(*_: Any) -> None:
        raise _NotBuilt

    before = build._build, build._load_module_from_path
    build._build, build._load_module_from_path = stop, lambda name, path: SimpleNamespace(launch=None)
    try:
        _build_launcher(job)
    except Exception:  # a wrong no costs little
        return False
    finally:
        build._build, build._load_module_from_path = before
    return True


def _build_launcher(job: TritonJob) -> None:
    module, _, name = job.launcher.partition(":")
    signature = json.loads(job.specialization)["signature"]
    source = SimpleNamespace(fn=_function(job), signature=signature, constants={})
    getattr(import_module(module), name)(source, _Unknown())
