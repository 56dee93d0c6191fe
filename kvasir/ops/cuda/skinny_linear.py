"""x W^T for up to 32 rows and a small W: the variants of `csrc/cuda/skinny_linear.cu`, and its launch."""

import ctypes
from dataclasses import dataclass
from functools import cache

import torch

from kvasir.ops.cuda.kernel import Kernel, pointer
from kvasir.ops.target import target_of
from kvasir.ops.triton import pdl

MAX_ROWS = 32
BLOCK = 32
"""Inputs are given out in blocks."""
_MAX_GATED_TILES = 4  # sums of more would not fit into registers
_MAX_SHARED_BYTES = 168 << 10  # of a program, out of 227: some of the next kernel's should find room, too
_FRAGMENT_BYTES = 512


@dataclass(frozen=True)
class SkinnyConfig:
    """A cluster of `splits` programs has some outputs and shares the inputs.

    A program has `tiles` x `column_warps` x 8 outputs (of each weight), and `input_warps` warps share its inputs.
    """

    tiles: int
    column_warps: int
    input_warps: int
    splits: int

    @property
    def columns(self) -> int:
        return 8 * self.tiles * self.column_warps

    @property
    def warps(self) -> int:
        return self.column_warps * self.input_warps


def skinny_config(outputs: int, inputs: int, gated: bool, processors: int) -> SkinnyConfig | None:
    """One program for each processor, nearly; None where the card cannot hold W, or a program not its part of x.

    The pattern of the best variants for 32 rows on an H100 (docs/design/gpu-path.md).
    """
    if gated:
        config = SkinnyConfig(-(-outputs // (8 * processors)), 1, 8, 1)
    else:
        programs = -(-outputs // 32)
        config = SkinnyConfig(2, 2, 4, next((s for s in (8, 4, 2) if programs * s <= processors), 1))
    if -(-outputs // config.columns) * config.splits > processors or (gated and config.tiles > _MAX_GATED_TILES):
        return None
    return config if shared_bytes(MAX_ROWS // 16, inputs, gated, config) <= _MAX_SHARED_BYTES else None


def _blocks(inputs: int, config: SkinnyConfig) -> tuple[int, int]:
    """Of a program, and of a warp, at most."""
    of_program = -(-(inputs // BLOCK) // config.splits)
    return of_program, -(-of_program // config.input_warps)


def shared_bytes(row_tiles: int, inputs: int, gated: bool, config: SkinnyConfig) -> int:
    """What a program needs: its part of W, of x, and what the programs of a cluster send each other."""
    parts = 2 if gated else 1
    of_program, depth = _blocks(inputs, config)
    fragments = config.warps * max(depth, row_tiles) * config.tiles * parts + of_program * row_tiles * 2
    if config.splits > 1:
        items = row_tiles * config.tiles * config.column_warps
        fragments += config.splits * -(-items // config.splits) * parts
    return fragments * _FRAGMENT_BYTES


@cache
def kernel_for(
    row_tiles: int, inputs: int, gated: bool, dtype: torch.dtype, config: SkinnyConfig, capability: tuple[int, int]
) -> Kernel:
    defines = {
        "ROW_TILES": row_tiles, "COLUMN_TILES": config.tiles, "COLUMN_WARPS": config.column_warps,
        "INPUT_WARPS": config.input_warps, "SPLITS": config.splits, "DEPTH": _blocks(inputs, config)[1],
        "GATED": int(gated), "HALF": int(dtype == torch.float16),
    }  # fmt: skip
    shared = shared_bytes(row_tiles, inputs, gated, config)
    return Kernel("skinny_linear.cu", "skinny_linear", defines, 32 * config.warps, shared, capability)


def skinny_linear(
    x: torch.Tensor,  # [M, K], last dimension contiguous, M <= MAX_ROWS, K a multiple of BLOCK
    weight: torch.Tensor,  # [N, K] contiguous, N even; gated: [2 * N, K]
    bias: torch.Tensor | None,  # [N]; gated: [2 * N]
    gated: bool,
    config: SkinnyConfig,
) -> torch.Tensor:  # [M, N]
    """gated: silu(x G^T) * (x U^T), where W holds G above U; rounded where the ops round."""
    rows, inputs = x.shape
    outputs = weight.shape[0] // 2 if gated else weight.shape[0]
    output = torch.empty(rows, outputs, dtype=x.dtype, device=x.device)
    kernel = kernel_for(1 if rows <= 16 else 2, inputs, gated, x.dtype, config, target_of(x.device).capability)
    kernel.launch(
        (-(-outputs // config.columns), config.splits), config.splits, pdl.enabled(x.device),
        pointer(x), pointer(weight), pointer(bias), pointer(output),
        *map(ctypes.c_int, (rows, x.stride(0), outputs, inputs)),
    )  # fmt: skip
    return output
