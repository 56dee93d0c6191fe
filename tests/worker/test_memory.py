import pytest

from kvasir.errors import ConfigError
from kvasir.worker.memory import MemoryFigures, MemoryPlan, plan_kv_cache

GIB = 1 << 30
CARD = MemoryFigures(total=80 * GIB, free=60 * GIB, weights=16 * GIB, activations=2 * GIB, limit=72 * GIB)
BLOCK = 2 << 20


def plan(figures: MemoryFigures = CARD, **changes: object) -> MemoryPlan:
    options = dict(
        device="cuda",
        bytes_per_block=BLOCK,
        block_size=16,
        max_model_len=32_768,
        max_num_seqs=1024,
        utilization=0.9,
        kv_cache_bytes=None,
        num_blocks_override=None,
        may_shrink=False,
    )
    return plan_kv_cache(figures, **{**options, **changes})


def test_a_card_gives_what_the_limit_leaves() -> None:
    assert plan().num_blocks == (72 - 16 - 2) * GIB // BLOCK


def test_free_memory_binds_before_the_limit() -> None:
    figures = MemoryFigures(total=80 * GIB, free=10 * GIB, weights=16 * GIB, activations=2 * GIB, limit=72 * GIB)
    assert plan(figures).num_blocks == 8 * GIB // BLOCK


def test_bytes_asked_for_win_and_blocks_win_over_bytes() -> None:
    assert plan(kv_cache_bytes=5 * GIB).num_blocks == 5 * GIB // BLOCK
    assert plan(kv_cache_bytes=5 * GIB, num_blocks_override=3000).num_blocks == 3000


def test_never_more_than_all_requests_can_fill() -> None:
    assert plan(max_num_seqs=2, max_model_len=160).num_blocks == 21


def test_what_does_not_fit_is_refused_with_numbers_and_a_way_out() -> None:
    small = MemoryFigures(total=24 * GIB, free=8 * GIB, weights=16 * GIB, activations=2 * GIB, limit=21 * GIB)
    with pytest.raises(ConfigError) as caught:
        plan(small, utilization=0.88, max_model_len=131_072)
    text = str(caught.value)
    assert "--max-model-len 131072 needs 16.00 GiB, there is room for 3.00 GiB (24576 tokens)" in text
    assert "--max-model-len 24576" in text
    hinted = plan(small, utilization=0.88, max_model_len=24_576)
    assert hinted.num_blocks * 16 >= 24_576


def test_the_hinted_utilization_fits() -> None:
    card = MemoryFigures(total=80 * GIB, free=62 * GIB, weights=16 * GIB, activations=2 * GIB, limit=40 * GIB)
    with pytest.raises(ConfigError, match=r"--gpu-memory-utilization 0\.(\d+)") as caught:
        plan(card, utilization=0.5, max_model_len=262_144)
    share = float(str(caught.value).split("--gpu-memory-utilization ")[1][:4])
    enough = MemoryFigures(
        total=80 * GIB, free=62 * GIB, weights=16 * GIB, activations=2 * GIB, limit=int(80 * GIB * share)
    )
    assert plan(enough, utilization=share, max_model_len=262_144).num_blocks * 16 >= 262_144


def test_a_context_nobody_asked_for_shrinks_to_what_fits() -> None:
    shrunk = plan(kv_cache_bytes=GIB, may_shrink=True)
    assert shrunk.max_model_len == shrunk.num_blocks * 16 == 8192
    with pytest.raises(ConfigError, match="does not fit"):
        plan(kv_cache_bytes=BLOCK * 3, may_shrink=True)


def test_the_table_names_every_part() -> None:
    table = plan().table()
    for part in (
        "device memory",
        "limit (--gpu-memory-utilization 0.9)",
        "weights",
        "activations",
        "KV cache",
        "tokens",
    ):
        assert part in table
