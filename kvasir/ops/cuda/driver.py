"""The CUDA driver's library, and what its error codes mean."""

import ctypes
from functools import cache


@cache
def library() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def check(code: int, what: str) -> None:
    """Raises RuntimeError with the code's name if it is an error."""
    if code:
        name = ctypes.c_char_p()
        library().cuGetErrorName(code, ctypes.byref(name))
        raise RuntimeError(f"{what}: {(name.value or b'unknown error').decode()} ({code})")
