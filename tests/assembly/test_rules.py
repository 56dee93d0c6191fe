"""Rules: what `auto` means, by facts."""

from itertools import pairwise

import pytest

from kvasir.assembly.rules import compilation, machine, memory, model, scheduler
from kvasir.config.option import AUTO
from kvasir.errors import ConfigError
from tests.assembly.shapes import CPU, CPU_BF16, LARGE, OLD, SMALL, shape


@pytest.mark.parametrize(
    ("saved", "facts", "value"),
    [
        ("bfloat16", CPU, "float32"),
        ("bfloat16", CPU_BF16, "bfloat16"),
        ("float16", CPU_BF16, "bfloat16"),
        ("float16", CPU, "float32"),
        ("float32", CPU_BF16, "float32"),
        ("bfloat16", LARGE, "bfloat16"),
        ("float32", LARGE, "bfloat16"),
        ("float16", LARGE, "float16"),
        ("bfloat16", OLD, "float16"),
        ("float64", LARGE, "bfloat16"),
    ],
)
def test_dtype(saved: str, facts, value: str):
    assert model.dtype(AUTO, shape(dtype=saved), facts).value == value


def test_dtype_asked_for():
    assert model.dtype("float16", shape(), CPU).value == "float16"
    with pytest.raises(ConfigError, match=r"7\.5.*8\.0.*float16"):
        model.dtype("bfloat16", shape(), OLD)


def test_max_model_len():
    assert model.max_model_len(AUTO, shape()).value == 2048
    assert model.max_model_len(512, shape()).value == 512
    with pytest.raises(ConfigError, match="4096.*2048.*hf_overrides"):
        model.max_model_len(4096, shape())


@pytest.mark.parametrize(
    ("facts", "offline", "seqs", "tokens"),
    [
        (CPU, False, 256, 2048),
        (CPU, True, 256, 4096),
        (LARGE, False, 1024, 8192),
        (LARGE, True, 1024, 16384),
        (SMALL, False, 256, 2048),
        (SMALL, True, 256, 8192),
    ],
)
def test_batch_sizes(facts, offline: bool, seqs: int, tokens: int):
    assert scheduler.max_num_seqs(AUTO, facts).value == seqs
    decision = scheduler.max_num_batched_tokens(
        AUTO, num_seqs=seqs, model_len=2048, chunked_prefill=True, offline=offline, facts=facts
    )
    assert decision.value == tokens


def test_the_token_budget_grows_to_what_it_must_hold():
    def budget(**changes) -> int:
        given = {"num_seqs": 8, "model_len": 64, "chunked_prefill": True, "offline": False, "facts": CPU} | changes
        return scheduler.max_num_batched_tokens(AUTO, **given).value

    assert budget(num_seqs=5000) == 5000
    assert budget(model_len=9000, chunked_prefill=False) == 9000
    with pytest.raises(ConfigError, match="is 4, but max_num_seqs is 8"):
        scheduler.max_num_batched_tokens(4, num_seqs=8, model_len=64, chunked_prefill=True, offline=False, facts=CPU)


def test_queue_bound():
    assert scheduler.max_queued_requests(AUTO, num_seqs=16, offline=False).value == 1024
    assert scheduler.max_queued_requests(AUTO, num_seqs=1024, offline=False).value == 8192
    assert scheduler.max_queued_requests(AUTO, num_seqs=16, offline=True).value == 1_000_000
    assert scheduler.max_queued_requests(5, num_seqs=16, offline=True).value == 5


def test_queued_tokens():
    assert scheduler.max_queued_tokens(AUTO, num_queued=1024, model_len=4096).value == 1024 * 1024
    assert scheduler.max_queued_tokens(AUTO, num_queued=1, model_len=4096).value == 4 * 4096
    assert scheduler.max_queued_tokens(9, num_queued=1, model_len=4096).value == 9


def cache_bytes(asked=None, facts=CPU, **changes) -> int | None:
    given = {"shape": shape(), "dtype": "float32", "block_size": 16, "model_len": 2048, "num_seqs": 4} | changes
    return memory.kv_cache_memory(asked, facts=facts, **given).value


def test_kv_cache_memory_on_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KVASIR_CPU_KVCACHE_SPACE", raising=False)
    per_token = memory.kv_bytes_per_token(shape(), "float32")
    assert per_token == 2 * 2 * 2 * 16 * 4
    assert cache_bytes() == per_token * (2048 * 4 + 16), "no more than the requests can fill"
    assert cache_bytes(num_seqs=10**6) == 4 * 2**30, "at most 4 GiB"
    monkeypatch.setenv("KVASIR_CPU_KVCACHE_SPACE", "0.5")
    assert cache_bytes() == 2**29
    assert cache_bytes(asked=123) == 123
    monkeypatch.setenv("KVASIR_CPU_KVCACHE_SPACE", "much")
    with pytest.raises(ConfigError, match="KVASIR_CPU_KVCACHE_SPACE is 'much'"):
        cache_bytes()


def test_kv_cache_memory_on_a_card_is_the_worker_s_to_measure():
    assert cache_bytes(facts=LARGE) is None


def test_threads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("KVASIR_CPU_THREADS", raising=False)
    assert machine.cpu_threads(AUTO, CPU).value == 2
    assert machine.cpu_threads(7, CPU).value == 7
    monkeypatch.setenv("KVASIR_CPU_THREADS", "3")
    assert machine.cpu_threads(AUTO, CPU).value == 3
    monkeypatch.setenv("KVASIR_CPU_THREADS", "x")
    with pytest.raises(ConfigError, match="KVASIR_CPU_THREADS is 'x'"):
        machine.cpu_threads(AUTO, CPU)


def test_served_names():
    assert model.served_model_name(AUTO, "owner/name").value == ["owner/name"]
    assert model.served_model_name(["a", "b"], "owner/name").value == ["a", "b"]


def test_captured_sizes_waste_little_and_end_at_the_bound() -> None:
    for bound in (1, 3, 100, 256, 1024, 4000):
        sizes = compilation.cudagraph_capture_sizes(AUTO, "full", bound).value
        assert sizes == sorted(set(sizes)) and sizes[0] == 1 and sizes[-1] == min(bound, compilation.LARGEST_DECODE)
        assert all(b <= 2 * a and (b <= 1.25 * a + 4) for a, b in pairwise(sizes))
        assert len(sizes) <= 30


def test_nothing_is_captured_where_nothing_can_be() -> None:
    assert compilation.cudagraph_mode("full", False, CPU).value == "none"
    assert compilation.cudagraph_mode(AUTO, True, LARGE).value == "none"
    assert compilation.cudagraph_mode(AUTO, False, LARGE).value == "full"
    assert compilation.cudagraph_capture_sizes([1, 2], "none", 8).value == []
    assert compilation.cudagraph_mixed_sizes(AUTO, "full_decode_only", 8192).value == []


def test_asked_sizes_stay_within_the_bounds() -> None:
    assert compilation.cudagraph_capture_sizes([16, 2, 2, 300], "full", 256).value == [2, 16]
    assert compilation.cudagraph_mixed_sizes([4096, 128], "full", 2048).value == [128]
