"""Paged attention, interpreted, against the float64 oracle. Unused cache slots hold NaN throughout."""

import dataclasses

import pytest
import torch

pytest.importorskip("triton")

from kvasir.attention.triton import TritonBackend, cache_views
from kvasir.ops.triton import paged_attention as launch
from kvasir.ops.triton.kv_write import reshape_and_cache
from kvasir.ops.triton.paged_attention import DecodeConfig, SplitPlan, split_plan
from tests.attention.ragged import Shape, Step, expected, fill_cache, make_step, random_lens, run_backend

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program costs milliseconds here: plan as for a card with two processors."""
    monkeypatch.setattr(launch, "_processors", lambda device: 2)


def check(step: Step, window: int | None = None, cap: float | None = None) -> None:
    scale = step.shape.head_size**-0.5
    got = run_backend(TritonBackend, step, scale, window, cap)
    tolerance = TOLERANCE[step.query.dtype]
    torch.testing.assert_close(got.double(), expected(step, scale, window, cap), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("kind", ["decode", "prefill", "chunk", "mixed"])
def test_ragged_steps(kind: str, window: int | None) -> None:
    check(make_step(random_lens(kind, 3, longest=60), Shape(), torch.float32, 3), window)


@pytest.mark.parametrize("window", [None, 6])
def test_only_last_tokens(window: int | None) -> None:
    """As rows that decode, whatever they are: of the last layer no more is wanted."""
    step = make_step([(9, 1), (40, 1), (3, 5), (0, 7), (130, 20)], Shape(), torch.float32, 5)
    got = run_backend(TritonBackend, step, 0.2, window, last=[1, 2, 4])
    want = expected(step, 0.2, window)[[1, 6, 33]]
    torch.testing.assert_close(got.double(), want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("lens", [[(9, 1), (130, 1), (3, 5), (0, 7)], [(0, 7)], [(200, 1), (0, 0)]])
def test_rows_that_only_the_device_knows(lens: list[tuple[int, int]]) -> None:
    """A captured step: decode and prefill kernels both see all rows, and each takes its own."""
    step = make_step(lens, Shape(), torch.float32, 7, padded_tokens=2)
    want = expected(step, 0.2)
    step = dataclasses.replace(step, batch=dataclasses.replace(step.batch, num_decodes=None))
    got = run_backend(TritonBackend, step, 0.2)
    torch.testing.assert_close(got.double(), want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize("kind", ["decode", "chunk"])
def test_soft_cap(kind: str, window: int | None) -> None:
    check(make_step(random_lens(kind, 4, longest=60), Shape(), torch.float32, 4), window, cap=2.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits(dtype: torch.dtype) -> None:
    check(make_step([(40, 1), (0, 1), (30, 17), (0, 70)], Shape(), dtype, 5))


@pytest.mark.parametrize(
    "shape",
    [Shape(4, 4, 64, 32), Shape(8, 1, 80, 16), Shape(14, 2, 96, 64), Shape(2, 1, 128, 128), Shape(2, 2, 256, 16)],
)
def test_shapes(shape: Shape) -> None:
    check(make_step([(50, 1), (0, 1), (37, 20)], shape, torch.float32, 6))


@pytest.mark.parametrize("lens", [[(9, 1), (0, 0), (0, 0)], [(9, 1), (3, 5), (0, 7)]])
def test_padding_gives_zeros(lens: list[tuple[int, int]]) -> None:
    """Rows of seq_len 0 come with a token each in a padded decode batch; trailing tokens belong to no row."""
    step = make_step(lens, Shape(), torch.float32, 7, padded_tokens=2)
    got = run_backend(TritonBackend, step, 0.2)
    real = sum(step.batch.query_lens)
    torch.testing.assert_close(got[:real].double(), expected(step, 0.2)[:real], atol=2e-5, rtol=2e-5)
    assert bool((got[real:] == 0).all())


@pytest.mark.parametrize("window", [None, 130])
@pytest.mark.parametrize(("splits", "min_split"), [(4, 16), (2, 64), (8, 1000)])
def test_splits_of_a_row_are_put_together(window: int | None, splits: int, min_split: int) -> None:
    step = make_step([(n - 1, 1) for n in (200, 1, 17, 64, 65)], Shape(), torch.float32, 8)
    batch = step.batch
    cache = torch.full(TritonBackend.kv_cache_shape(step.num_blocks, 16, 2, 32), float("nan"))
    key_cache, value_cache = cache_views(cache)
    fill_cache(step, key_cache, value_cache)
    reshape_and_cache(step.new(step.keys), step.new(step.values), key_cache, value_cache, batch.slot_mapping)
    output = torch.full_like(step.query, float("nan"))
    launch._decode(
        step.query,
        key_cache,
        value_cache,
        launch.Rows(batch.query_start_loc, batch.seq_lens, batch.block_table, batch.table_rows),
        output,
        batch.num_reqs,
        launch._common_arguments(step.query, key_cache, 0.2, window, None),
        DecodeConfig(16, 4, 1),
        SplitPlan(splits, min_split),
    )
    torch.testing.assert_close(output.double(), expected(step, 0.2, window), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("shared", [0, 16, 80, 128])
def test_a_shared_prefix_is_read_once(rows: int, shared: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows begin with the same blocks, one has no other keys; padding rows share nothing."""
    monkeypatch.setattr(launch, "shared_prefix_config", lambda *a: launch.PrefillConfig(16, 16, 4, 1))
    lens = [(max(0, shared + 5 * r - 1), 1) for r in range(rows)]
    step = make_step([*lens, (0, 0)], Shape(), torch.float32, 9, padded_tokens=1)
    batch, count = step.batch, shared // 16
    for row in range(rows):
        step.keys[row][:shared], step.values[row][:shared] = step.keys[0][:shared], step.values[0][:shared]
        batch.block_table[row, :count] = batch.block_table[0, :count]
    batch = dataclasses.replace(batch, shared_len=torch.tensor([shared], dtype=torch.int32), num_decodes=rows + 1)
    step = dataclasses.replace(step, batch=batch)
    got = run_backend(TritonBackend, step, 0.2)
    torch.testing.assert_close(got.double(), expected(step, 0.2), atol=2e-5, rtol=2e-5)
    assert not launch.tickets(step.query.device).any(), "each launch leaves zeros behind"


def test_split_plan_depends_on_the_shape_only_and_stays_in_bounds() -> None:
    for rows in (1, 2, 7, 32, 256, 1024):
        for num_kv_heads in (1, 4, 8, 32):
            plan = split_plan(rows, num_kv_heads, 132)
            assert 4 <= plan.splits <= launch.MAX_SPLITS
            assert plan.splits & (plan.splits - 1) == 0
    assert split_plan(1, 8, 132).splits > split_plan(256, 8, 132).splits
