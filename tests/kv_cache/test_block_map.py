import pytest

from kvasir.kv_cache import BlockPool, block_map


def test_one_digit_a_block():
    pool = BlockPool(6)
    used, shared, kept, _ = pool.take(4)
    pool.share(shared)
    pool.publish(kept, b"h", None)
    pool.release([kept])
    pool.release([pool.blocks[3]])
    assert block_map.block_map(pool.blocks, 10) == (1, "231000")
    assert used.ref_count == 1


@pytest.mark.parametrize("num_blocks", [1, 9, 10, 11, 95, 250_000])
def test_cells_are_bounded_and_cover_everything(num_blocks: int):
    pool = BlockPool(num_blocks)
    per_cell, digits = block_map.block_map(pool.blocks, 10)
    assert 1 <= len(digits) <= 10
    assert (len(digits) - 1) * per_cell < num_blocks <= len(digits) * per_cell


def test_in_a_cell_the_busiest_block_wins():
    pool = BlockPool(40)
    pool.blocks[13].hash = b"x"
    pool.blocks[27].ref_count, pool.blocks[26].hash = 1, b"y"
    pool.blocks[39].ref_count = 3
    assert block_map.block_map(pool.blocks, 4) == (10, "0123")
