"""Kernels through Triton's interpreter, in a process of their own: TRITON_INTERPRET=1 is read when triton is imported.

`TRITON_INTERPRET=1 python -m pytest tests/interpret`
"""

import os
from pathlib import Path

import pytest

INTERPRETING = os.environ.get("TRITON_INTERPRET") == "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not INTERPRETING:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1 from the start of the process"))


@pytest.fixture(autouse=True, scope="session")
def bfloat16_dot() -> None:
    """The interpreter keeps bfloat16 as its 16 bits and would multiply those as integers: widen them first."""
    if not INTERPRETING:
        return
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    plain = interpreter.InterpreterBuilder.create_dot

    def widen(handle: interpreter.TensorHandle) -> interpreter.TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        bits = handle.data.astype(np.uint32) << 16
        return interpreter.TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self, a, b, d, *rest):
        return plain(self, widen(a), widen(b), d, *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot
