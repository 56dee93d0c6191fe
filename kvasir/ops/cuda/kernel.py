"""One variant of a CUDA kernel: found in the disk cache or compiled, loaded on first use, launched through the driver.

The driver is called directly (ctypes): clusters and dependent launches need its extensible launch, and a launch costs a
few microseconds of host time, which a graph pays once.
"""

import ctypes
import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import torch

from kvasir import envs
from kvasir.ops.cuda import driver, nvrtc
from kvasir.ops.cuda.tensor_map import TensorMap
from kvasir.ops.target import Target

Value = ctypes.c_void_p | ctypes.c_int | ctypes.c_longlong | ctypes.c_float | TensorMap
_CLUSTER, _DEPENDENT = 4, 6  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, _PROGRAMMATIC_STREAM_SERIALIZATION
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES

submit: Callable[["Kernel"], None] | None = None
"""While a step is run for the sake of what it would compile (`compilation/ahead.py`): gets the kernels."""


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint), ("pad", ctypes.c_uint), ("value", ctypes.c_uint * 16)]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3), ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p), ("attributes", ctypes.POINTER(_Attribute)), ("num_attributes", ctypes.c_uint),
    ]  # fmt: skip


@cache
def source_folder() -> Path | None:
    """csrc/cuda beside the package, in a checkout, or as the build copied it into the package."""
    package = Path(__file__).parents[2]
    places = (package.parent / "csrc" / "cuda", package / "assets" / "cuda")
    return next((place for place in places if place.is_dir()), None)


def refusal(target: Target) -> str | None:
    """None where our kernels in CUDA C++ serve, else the reason why not."""
    if target.capability == (0, 0):
        return "no CUDA card"
    major, minor = target.capability
    if major != 9:  # newer ones have other amounts of shared memory, and were not tried
        return f"made for compute capability 9.0, this card has {major}.{minor}"
    if source_folder() is None:
        return "the sources in csrc/cuda are not there"
    if nvrtc.library_path() is None:
        return "the compiler libnvrtc, which comes with torch, was not found"
    return None


class Recipe(msgspec.Struct, frozen=True):
    """All that compiling one variant takes, in a form that can be sent to another process."""

    file: str
    name: str
    options: tuple[str, ...]

    def kept(self) -> Path | None:
        """Its file in the disk cache, if it is there."""
        place = self._place(self._source())
        return place if place.is_file() else None

    def binary(self) -> bytes:
        """From the disk cache, or compiled and left there.

        Raises:
            CompileError: the source does not compile, or there is no compiler.
        """
        source = self._source()
        kept = self._place(source)
        try:
            return kept.read_bytes()
        except OSError:
            made = nvrtc.compile_cubin(source, self.file, self.options)
        _keep(kept, made)
        return made

    def _source(self) -> str:
        folder = source_folder()
        if folder is None:
            raise nvrtc.CompileError("csrc/cuda was not found")
        return (folder / self.file).read_text()

    def _place(self, source: str) -> Path:
        key = "\0".join((source, *self.options, str(nvrtc.library_path())))
        return cache_folder() / f"{self.name}-{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.cubin"


class Kernel:
    """`name` of `file` in csrc/cuda, with `defines` set, for cards of `capability`.

    Args:
        shared_bytes: dynamic shared memory of a program.
    """

    def __init__(
        self,
        file: str,
        name: str,
        defines: dict[str, int],
        threads: int,
        shared_bytes: int,
        capability: tuple[int, int],
    ):
        self._name = name
        self._threads = threads
        self._shared_bytes = shared_bytes
        major, minor = capability
        suffix = "a" if major >= 9 else ""
        options = (
            f"--gpu-architecture=sm_{major}{minor}{suffix}", "--std=c++17",
            *(f"-D{key}={value}" for key, value in sorted(defines.items())),
        )  # fmt: skip
        self.recipe = Recipe(file, name, options)
        self._functions: dict[int, ctypes.c_void_p] = {}

    def launch(self, grid: tuple[int, int], cluster: int, dependent: bool, *values: Value) -> None:
        """On the current device and stream. `cluster`: programs along the grid's second side that share a cluster.

        `dependent`: may begin before its predecessor has ended (`ops/triton/pdl.py`).
        """
        if submit is not None:
            submit(self)
            return
        device = torch.cuda.current_device()
        attributes = (_Attribute * 2)()
        count = 0
        if cluster > 1:
            attributes[count].id = _CLUSTER
            attributes[count].value[:3] = [1, cluster, 1]
            count += 1
        if dependent:
            attributes[count].id = _DEPENDENT
            attributes[count].value[0] = 1
            count += 1
        config = _Launch(
            (grid[0], grid[1], 1), (self._threads, 1, 1), self._shared_bytes,
            torch._C._cuda_getCurrentRawStream(device), attributes, count,
        )  # fmt: skip
        pointers = (ctypes.c_void_p * len(values))(*map(_address, values))
        code = driver.library().cuLaunchKernelEx(ctypes.byref(config), self._function(device), pointers, None)
        driver.check(code, self._name)

    def _function(self, device: int) -> ctypes.c_void_p:
        function = self._functions.get(device)
        if function is None:
            module, function = ctypes.c_void_p(), ctypes.c_void_p()
            call, check = driver.library(), driver.check
            check(call.cuModuleLoadData(ctypes.byref(module), self.recipe.binary()), f"loading {self._name}")
            check(call.cuModuleGetFunction(ctypes.byref(function), module, self._name.encode()), self._name)
            check(call.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, self._shared_bytes), self._name)
            self._functions[device] = function
        return function


def _address(value: Value) -> int:
    return value.address() if isinstance(value, TensorMap) else ctypes.addressof(value)


def cache_folder() -> Path:
    return Path(envs.CACHE_DIR.value).expanduser() / "cuda"


def _keep(path: Path, content: bytes) -> None:
    """Whole or not at all. What is kept is code, so the folder is this user's only; without one nothing is kept."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, draft = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(draft, path)
    except OSError:
        return


def pointer(tensor: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
