"""The start queues every kernel that any later step launches: nobody meets a compiler in the middle of an answer."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kvasir.attention.triton import TritonBackend
from kvasir.compilation import CompileAhead, CudagraphMode, CUDAGraphWrapper
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


@pytest.fixture(
    params=[ONE_KIND, TWO_KINDS, WITH_OVERLAP], ids=["layers of one kind", "of two", "prefill with overlap"]
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
    queued: set[Any] = set()

    def queue(ahead: CompileAhead, steps: Callable[[], None]) -> None:
        steps()
        queued.update(id(kernel.kernel) for kernel in compiled())
        queued.update(recipes)

    monkeypatch.setattr(CompileAhead, "queue", queue)
    made = Worker(settings, PaperPlatform(H100.capability), shape, lambda need: TritonBackend, build)
    with torch.inference_mode():
        made.start()
    assert ("prefill_overlap_kernel" in {kernel.name for kernel in compiled()}) == (request.param is WITH_OVERLAP)
    made.queued = queued
    return made


def prompts(step: int, lens: list[int], params: SamplingParams) -> SchedulerOutput:
    requests = [
        SlotRequest(f"r{slot}", slot, [1] * n, n, 0, [0] * (n // 16 + 2), params, slot) for slot, n in enumerate(lens)
    ]
    rows = len(lens)
    return SchedulerOutput(step, list(range(rows)), lens, [0] * rows, [True] * rows, [0] * rows, [], requests)


def decode(step: int, slots: list[int], computed: int) -> SchedulerOutput:
    rows = len(slots)
    return SchedulerOutput(step, slots, [1] * rows, [computed] * rows, [True] * rows, [0] * rows)


def test_later_steps_need_no_other_kernel(worker: Worker, compiled: Callable[[], list[Compiled]]) -> None:
    queued = worker.queued
    assert len(queued) > 12
    step = 100
    for params in (SamplingParams(temperature=0.0), SamplingParams(top_k=5), SamplingParams(top_p=0.5)):
        for lens in ([1], [5], [100], [3, 30, 200], [9] * 40, [11] * 90, [200] * 4, [1, 2, 3], [600] * 9):
            worker.execute_model(prompts(step, lens, params))
            worker.sample_tokens(step)
            for rows in sorted({1, len(lens) // 2 or 1, len(lens)}):
                step += 1
                worker.execute_model(decode(step, list(range(rows)), max(lens)))
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
