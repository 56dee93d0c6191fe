"""NVIDIA's run-time compiler: CUDA C++ in, machine code out. It comes with torch's CUDA builds and needs no card."""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import torch


class CompileError(Exception):
    """What the compiler printed."""


@cache
def library_path() -> Path | None:
    """libnvrtc of the CUDA version that torch was built with, or None."""
    major = (torch.version.cuda or "13").partition(".")[0]
    name = f"libnvrtc.so.{major}"
    spec = importlib.util.find_spec("nvidia")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    places = [folder / kind / "lib" for folder in folders for kind in (f"cu{major}", "cuda_nvrtc")]
    places += [Path("/usr/local/cuda/lib64"), Path("/usr/lib/x86_64-linux-gnu")]
    return next((place / name for place in places if (place / name).is_file()), None)


@cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if path is None:
        raise CompileError("libnvrtc, which comes with CUDA builds of torch, was not found")
    for part in path.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(part))  # the compiler asks for it by name only, and finds what is loaded
    library = ctypes.CDLL(str(path))
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def compile_cubin(source: str, name: str, options: tuple[str, ...]) -> bytes:
    """Machine code of `source`; `name` stands in messages.

    Raises:
        CompileError: with the compiler's log.
    """
    library = _library()
    program = ctypes.c_void_p()
    _check(
        library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None), library, name
    )
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        if library.nvrtcCompileProgram(program, len(options), given):
            raise CompileError(f"{name} with {' '.join(options)}:\n{_read(library, program, 'ProgramLog').decode()}")
        return _read(library, program, "CUBIN")
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)), library, what)
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library, f"nvrtcGet{what}")(program, buffer), library, what)
    return buffer.raw[: size.value]


def _check(code: int, library: ctypes.CDLL, what: str) -> None:
    if code:
        raise CompileError(f"{what}: {library.nvrtcGetErrorString(code).decode()}")
