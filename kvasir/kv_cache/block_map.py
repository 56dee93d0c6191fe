"""The block map: what each block is, as a digit, for people who watch a cache fill."""

from collections.abc import Sequence

from kvasir.kv_cache.block import Block

MAX_LOOKED_AT = 100_000
"""Blocks looked at for one map: a few milliseconds, in which the core makes no step. Of more, every k-th is."""

FREE, CACHED, USED, SHARED = "0123"
"""Free and empty; free but findable; used by one request; used by several. The later ones win within a cell."""


def block_map(blocks: Sequence[Block], max_cells: int) -> tuple[int, str]:
    """At most `max_cells` digits, each for as many neighbouring blocks; returns how many those are, and the digits."""
    step = -(-len(blocks) // MAX_LOOKED_AT)
    digits = "".join(map(_digit, blocks[::step]))
    width = -(-len(digits) // max_cells)
    if width == 1:
        return step, digits
    return step * width, "".join(max(digits[i : i + width]) for i in range(0, len(digits), width))


def _digit(block: Block) -> str:
    if block.ref_count:
        return USED if block.ref_count == 1 else SHARED
    return FREE if block.hash is None else CACHED
