"""Ops on CPU by the kernels of csrc/cpu, for float32 and bfloat16; other types go to torch's own functions.

*Ring*: worker. Same results as the reference, up to the order of additions; which rows share a call never matters.
Importing this package fails when the native library cannot be loaded, with the reason.
"""

import torch

from kvasir.platforms.native import native_library

DTYPES = (torch.float32, torch.bfloat16)

if native_library().handle is None:
    raise ImportError(native_library().missing)

from kvasir.ops.cpp import fakes  # noqa: E402, F401
