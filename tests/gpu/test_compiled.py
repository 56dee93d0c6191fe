"""Compiled forward passes on the card: the eager engine's tokens, with CUDA graphs of compiled pieces and without."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.e2e.compiled import answers, compiled_engine
from tests.e2e.engines import engine

TOLERANCE = 1e-3  # of log-probabilities in float32
OPTIONS = dict(device="cuda", max_num_batched_tokens=64, max_num_seqs=8, kv_cache_memory="64MiB")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One for all tests here, so that code is compiled once. float32 products are in float32, not tf32."""
    folder = tmp_path_factory.mktemp("kvasir-cache")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVASIR_CACHE_DIR", str(folder))
        yield folder
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("mode", ["none", "full"])
@pytest.mark.parametrize(("level", "ops"), [(1, "all"), (2, "-linear"), (2, "none")])
@pytest.mark.parametrize("model", ["llama", "qwen3"])
def test_compiled_equals_eager(model: str, level: int, ops: str, mode: str) -> None:
    """Chunked prefill beside decode; the second round replays graphs that the first one captured."""
    options = dict(OPTIONS, cudagraph_mode=mode)
    with engine(model, **options) as llm:
        want = answers(llm, 0) + answers(llm, 1)
    how = dict(optimization_level=level, compilation_config={"custom_ops": [ops]})
    with compiled_engine(model, **options, **how) as (llm, found):
        (compiled,) = found
        assert compiled is not None, "it was not compiled: see the warning in the log"
        got = answers(llm, 0) + answers(llm, 1)
        runner = llm.llm_engine.client._core.executor._worker.runner
        assert "forward" in vars(runner.model), "it was taken back: see the warning in the log"
        assert bool(runner._decode is not None and runner._decode.graphs._graphs) == (mode == "full")
    for (tokens, logprobs), (wanted, as_before) in zip(got, want, strict=True):
        assert tokens == wanted
        assert logprobs == pytest.approx(as_before, abs=TOLERANCE)


def test_the_second_start_finds_what_the_first_compiled() -> None:
    from torch._dynamo.utils import counters

    found = []
    for _ in range(2):
        before = counters["inductor"]["fxgraph_cache_hit"]
        with compiled_engine(
            "mistral-swa", **OPTIONS, optimization_level=2, compilation_config={"custom_ops": ["none"]}
        ) as (_, compiled):
            assert compiled[0] is not None
        found.append(counters["inductor"]["fxgraph_cache_hit"] - before)
    assert found == [0, 4]
