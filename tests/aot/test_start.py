"""What is compiled ahead is all that a start and any later step launch: neither meets a compiler."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvasir.attention.triton import TritonBackend
from kvasir.compilation import CudagraphMode, CUDAGraphWrapper
from kvasir.config.hf import load_model_shape
from kvasir.loader.load import build_model
from kvasir.messages import SamplingParams, SchedulerOutput, SlotRequest
from kvasir.models.interface import ModelBuild
from kvasir.platforms.paper import PaperPlatform
from kvasir.worker.worker import ModelLoad, Worker, WorkerSettings
from tests.aot.conftest import H100, Compiled, recipes
from tests.fixtures import checkpoint


def run_instead(graphs: CUDAGraphWrapper, key: Any) -> tuple[torch.Tensor, ...]:
    """What a capture launches, without a graph."""
    outputs = graphs._run(key)
    graphs._graphs[key] = (SimpleNamespace(replay=lambda: None), outputs)
    return outputs


ONE_KIND: dict[str, Any] = {"num_hidden_layers": 4}
TWO_KINDS: dict[str, Any] = {
    "num_hidden_layers": 5,
    "layer_types": ["full_attention", "full_attention", "sliding_attention", "full_attention", "full_attention"],
    "use_sliding_window": True,
    "sliding_window": 64,
}


WITH_OVERLAP: dict[str, Any] = {"num_hidden_layers": 4, "head_dim": 64}
MANY_HEADS: dict[str, Any] = {
    "num_hidden_layers": 4, "head_dim": 128, "num_attention_heads": 16, "num_key_value_heads": 8,
}  # fmt: skip
"""All three variants of decode attention: programs for less than each processor, up to four of them, more."""
WITH_PREFILL_OVERLAP = (WITH_OVERLAP, MANY_HEADS)


@pytest.fixture(
    params=[ONE_KIND, TWO_KINDS, WITH_OVERLAP, MANY_HEADS],
    ids=["layers of one kind", "of two", "prefill with overlap", "many heads"],
)
def worker(
    request: pytest.FixtureRequest, compiled: Callable[[], list[Compiled]], monkeypatch: pytest.MonkeyPatch
) -> Worker:
    monkeypatch.setattr(CUDAGraphWrapper, "capture", run_instead)
    shape = load_model_shape(checkpoint("qwen3"), request.param)

    def build(backend: Any) -> ModelLoad:
        model = build_model(shape, ModelBuild(torch.bfloat16, torch.device("meta"), backend, max_model_len=1024))
        return ModelLoad(model, lambda: None)

    settings = WorkerSettings(
        torch.bfloat16, 1024, 96, 8192, 16, 0.9, 1 << 20, 128, 20, cudagraph_mode=CudagraphMode.FULL,
        cudagraph_decode_sizes=(1, 8, 32, 64), cudagraph_mixed_sizes=(64, 128),
    )  # fmt: skip
    launched = [
        Worker(settings, PaperPlatform(H100.capability), shape, lambda need: TritonBackend, build) for _ in range(2)
    ]
    with torch.inference_mode():
        launched[0].launch_all_kinds()
        queued = {id(kernel.kernel) for kernel in compiled()} | recipes
        launched[1].start()
    names = {kernel.name for kernel in compiled()}
    assert ("prefill_overlap_kernel" in names) == (request.param in WITH_PREFILL_OVERLAP)
    launched[1].queued = queued
    return launched[1]


def prompts(step: int, lens: list[int], params: SamplingParams, computed: int) -> SchedulerOutput:
    """All rows have the same blocks; `computed` tokens of each are in the cache."""
    whole = [computed + n for n in lens]
    requests = [
        SlotRequest(f"r{slot}", slot, [1] * n, n, computed, [0] * (n // 16 + 2), params, slot)
        for slot, n in enumerate(whole)
    ]
    rows = len(lens)
    return SchedulerOutput(step, list(range(rows)), lens, [computed] * rows, [True] * rows, [0] * rows, [], requests)


def decode(step: int, slots: list[int], computed: int) -> SchedulerOutput:
    rows = len(slots)
    return SchedulerOutput(step, slots, [1] * rows, [computed] * rows, [True] * rows, [0] * rows)


def test_later_steps_need_no_other_kernel(worker: Worker, compiled: Callable[[], list[Compiled]]) -> None:
    queued = worker.queued
    assert len(queued) > 12
    step = 100
    for params in (SamplingParams(temperature=0.0), SamplingParams(top_k=5), SamplingParams(top_p=0.5)):
        for lens, computed in (
            ([1], 0), ([5], 0), ([100], 0), ([3, 30, 200], 0), ([9] * 40, 0), ([11] * 90, 0), ([200] * 4, 0),
            ([1, 2, 3], 0), ([600] * 9, 0), ([1] * 30, 600), ([2] * 90, 600),
        ):  # fmt: skip
            worker.execute_model(prompts(step, lens, params, computed))
            worker.sample_tokens(step)
            for rows in sorted({1, len(lens) // 2 or 1, len(lens)}):
                step += 1
                worker.execute_model(decode(step, list(range(rows)), computed + max(lens)))
                worker.sample_tokens(step)
            step += 1
    late = {kernel.name for kernel in compiled() if id(kernel.kernel) not in queued} | (recipes - queued)
    windows = {
        k.kernel.src.constants[(i,)]
        for k in compiled()
        for i, n in enumerate(k.kernel.src.fn.arg_names)
        if n == "HAS_WINDOW"
    }
    assert windows == {window is not None for window in worker._shape.layer_windows}
    assert not late, f"compiled in the middle of an answer: {late}"
