"""Who computes prompts on which card, and what the kernel in CUDA C++ is told of a step. It runs in `tests/gpu`."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from kvasir.attention.backend import AttentionNeed
from kvasir.attention.hopper_prefill import MIN_QUERY, HopperPrefill
from kvasir.attention.long_prefill import CudnnPrefill
from kvasir.attention.prefill import LastRows
from kvasir.attention.triton import _default_provider, cache_views
from kvasir.ops.cuda import kernel, nvrtc
from kvasir.ops.cuda.kernel import Kernel
from kvasir.ops.target import Target, compile_for
from tests.attention.ragged import Shape, make_step


def need(capability: tuple[int, int] = (9, 0), **changes: object) -> AttentionNeed:
    facts = {"head_size": 128, "num_heads": 16, "num_kv_heads": 8, "block_size": 16} | changes
    return AttentionNeed("cuda", torch.bfloat16, capability=capability, **facts)  # type: ignore[arg-type]


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "library_path", lambda: Path("libnvrtc.so"))


@pytest.mark.usefixtures("compiler")
def test_on_hopper_prompts_are_the_cuda_kernels() -> None:
    assert isinstance(_default_provider(need()), HopperPrefill)
    assert isinstance(
        _default_provider(need(head_size=64, num_heads=14, num_kv_heads=2, block_size=128)), HopperPrefill
    )


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "changes",
    [{"head_size": 96}, {"sliding_window": True}, {"soft_cap": True}, {"block_size": 256}, {"num_heads": 2048}],
)
def test_what_it_refuses(changes: dict[str, object]) -> None:
    reason = HopperPrefill.refusal(need(**changes))
    assert reason is not None
    assert any(str(value) in reason for value in changes.values() if value is not True) or "window" in reason


def test_without_the_compiler_and_on_newer_cards_it_is_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(_default_provider(need((10, 0))), CudnnPrefill)
    monkeypatch.setattr(nvrtc, "library_path", lambda: None)
    assert isinstance(_default_provider(need()), CudnnPrefill)
    assert _default_provider(need((8, 0))) is None


def test_it_is_told_of_the_last_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(16, 8, 128, 16)
    batch = make_step([(40, 1), (7, 20), (3, 64), (100, 300)], shape, torch.bfloat16, 1).batch
    rows = LastRows.of(batch, MIN_QUERY)
    assert rows is not None
    provider = HopperPrefill(need())
    plan = provider.plan(batch, rows)
    assert plan.query_start_loc.tolist() == [21, 85, 385]
    assert plan.seq_lens.tolist() == [67, 400]
    assert plan.num_tiles == 1 + 5, "of 64 tokens, with two heads for each KV head"
    assert torch.equal(plan.table_rows, batch.table_rows[2:])

    noted: list[Kernel] = []
    monkeypatch.setattr(kernel, "submit", noted.append)
    query = torch.empty(385, 16, 128, dtype=torch.bfloat16, device="meta")
    cache = torch.empty(50, 2, 8, 16, 128, dtype=torch.bfloat16, device="meta")
    with compile_for(Target("cuda", (9, 0), 132)):
        provider.attend(query, *cache_views(cache), batch, rows, plan, 0.1, torch.empty_like(query))
        with pytest.raises(ValueError, match="one piece of memory"):
            provider.attend(query, cache[:, 0], cache[:, 1], batch, rows, plan, 0.1, query)
    assert [k.recipe.name for k in noted] == ["prefill_attention"]
    assert {"-DGROUP=2", "-DHEAD_SIZE=128", "-DBLOCK_SIZE=16", "-DHALF=0"} < set(noted[0].recipe.options)
