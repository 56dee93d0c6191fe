"""What the copy engine of Hopper (TMA) must know of a tensor, in the driver's own form."""

import ctypes
from dataclasses import dataclass
from functools import lru_cache

import torch

from kvasir.ops.cuda import driver

_TYPES = {torch.float16: 6, torch.bfloat16: 9}  # CU_TENSOR_MAP_DATA_TYPE_*
_SWIZZLE_128, _PROMOTE_256 = 3, 3
_BYTES, _ALIGNMENT = 128, 64


@dataclass(frozen=True)
class TensorMap:
    """Boxes of a tensor of 16-bit numbers, innermost side first; made when its address is asked for.

    Attributes:
        strides: in bytes, of all sides but the innermost.
        box: what one copy brings, 64 numbers wide, so that its rows of 128 bytes are laid out for the tensor cores.
            What lies outside of the tensor becomes zeros.
    """

    pointer: int
    dtype: torch.dtype
    sides: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]

    def address(self) -> int:
        """Of 128 bytes on the host, which a launch copies. They are kept until a thousand other maps were asked for."""
        return _encoded(self)[1]


@lru_cache(maxsize=1024)
def _encoded(map: TensorMap) -> tuple[ctypes.Array[ctypes.c_char], int]:
    """The memory, and where in it the map begins."""
    memory = ctypes.create_string_buffer(_BYTES + _ALIGNMENT)
    address = -(-ctypes.addressof(memory) // _ALIGNMENT) * _ALIGNMENT
    rank = len(map.sides)
    code = driver.library().cuTensorMapEncodeTiled(
        ctypes.c_void_p(address), _TYPES[map.dtype], rank, ctypes.c_void_p(map.pointer),
        (ctypes.c_uint64 * rank)(*map.sides), (ctypes.c_uint64 * (rank - 1))(*map.strides),
        (ctypes.c_uint32 * rank)(*map.box), (ctypes.c_uint32 * rank)(*[1] * rank),
        0, _SWIZZLE_128, _PROMOTE_256, 0,
    )  # fmt: skip
    driver.check(code, f"a map of {map.sides}")
    return memory, address
