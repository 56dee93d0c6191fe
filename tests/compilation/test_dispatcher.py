import pytest

from kvasir.compilation import BatchDescriptor, CudagraphDispatcher, CudagraphMode

FULL, NONE = CudagraphMode.FULL, CudagraphMode.NONE


def decode(rows: int) -> BatchDescriptor:
    return BatchDescriptor(rows, rows, uniform_decode=True)


@pytest.mark.parametrize(("rows", "size"), [(1, 1), (2, 2), (3, 8), (8, 8)])
def test_the_smallest_size_that_holds_the_batch(rows: int, size: int) -> None:
    dispatcher = CudagraphDispatcher(FULL, [8, 1, 2, 2], [64, 16], 4)
    assert dispatcher.pick(decode(rows)) == (FULL, size)


def test_what_fits_no_size_is_not_replayed() -> None:
    dispatcher = CudagraphDispatcher(FULL, [1, 8], [16, 64], 4)
    assert dispatcher.pick(decode(9)) == (NONE, 0)
    assert dispatcher.pick(BatchDescriptor(65, 2, uniform_decode=False)) == (NONE, 0)


def test_mixed_steps_by_tokens_and_rows() -> None:
    dispatcher = CudagraphDispatcher(FULL, [1, 8], [16, 64], 4)
    assert dispatcher.pick(BatchDescriptor(17, 4, uniform_decode=False)) == (FULL, 64)
    assert dispatcher.pick(BatchDescriptor(17, 5, uniform_decode=False)) == (NONE, 0), "more rows than it has"


def test_modes() -> None:
    mixed = BatchDescriptor(10, 2, uniform_decode=False)
    only_decode = CudagraphDispatcher(CudagraphMode.FULL_DECODE_ONLY, [1, 8], [16], 4)
    assert only_decode.pick(decode(5)) == (FULL, 8)
    assert only_decode.pick(mixed) == (NONE, 0)
    nothing = CudagraphDispatcher(NONE, [1, 8], [16], 4)
    assert nothing.pick(decode(1)) == nothing.pick(mixed) == (NONE, 0)
