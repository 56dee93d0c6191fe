"""Compiled engines against eager ones: the same tokens and log-probabilities, whatever shapes the steps have."""

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvasir import SamplingParams
from kvasir.assembly.resolve import resolve
from kvasir.assembly.worker import make_worker
from kvasir.compilation import forward as compiling
from kvasir.config import EngineArgs
from kvasir.utils.heartbeat import Phase
from tests.e2e.compiled import answers, compiled_engine
from tests.e2e.engines import engine, random_prompts
from tests.fixtures import CHECKPOINTS, checkpoint

MODELS = ("llama", "qwen2", "qwen3", "mistral-swa")
TOLERANCE = 2e-5
OPENED = {"custom_ops": ["none"]}
"""Our ops in torch's, so that inductor has something to fuse."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory) -> Iterator[Path]:
    """One for all tests here, so that code is compiled once."""
    folder = tmp_path_factory.mktemp("kvasir-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KVASIR_CACHE_DIR", str(folder))
        yield folder


def check(model: str, level: int, **options) -> None:
    """Chunked prefill beside decode, in the plain and in the overlapped loop."""
    chunks = dict(max_num_batched_tokens=32, max_num_seqs=8)
    if "dtype" in options:
        chunks["dtype"] = options["dtype"]
    with engine(model, **chunks) as llm:
        want = answers(llm)
    for loop in (False, True):
        more = dict(chunks, async_scheduling=loop, optimization_level=level, **options)
        with compiled_engine(model, **more) as (llm, found):
            (compiled,) = found
            assert compiled is not None and compiled.num_pieces == 4
            got = answers(llm)
            runner = llm.llm_engine.client._core.executor._worker.runner
            assert runner.model.forward is compiled, (
                "one of its forms, for all tokens and for the last ones, did not run"
            )
        for (tokens, logprobs), (wanted, as_before) in zip(got, want, strict=True):
            assert tokens == wanted
            assert logprobs == pytest.approx(as_before, abs=TOLERANCE)


@pytest.mark.parametrize("model", CHECKPOINTS)
def test_traced(model):
    check(model, level=1)


def test_traced_in_16_bits():
    """The same ops in the same order: not even roundings differ."""
    check("qwen3", level=1, dtype="bfloat16")


@pytest.mark.parametrize("model, ops", [("qwen3", ["none", "+linear"]), ("llama", ["none"])])
def test_compiled_by_inductor(model, ops):
    check(model, level=2, compilation_config={"custom_ops": ops})


def test_between_whole_ops_nothing_is_left_to_generate(monkeypatch):
    calls = []
    monkeypatch.setattr(compiling, "inductor", lambda *args: calls.append(1))
    check("qwen2", level=2)
    assert not calls


@pytest.mark.slow
@pytest.mark.parametrize("ops", ["none", "-linear"])
@pytest.mark.parametrize("model", MODELS)
def test_compiled_by_inductor_all(model, ops):
    check(model, level=2, compilation_config={"custom_ops": [ops]})


@pytest.mark.slow
def test_compiled_by_inductor_that_tunes():
    check("llama", level=3, compilation_config=OPENED)


def test_nothing_is_compiled_while_steps_of_all_sizes_run(monkeypatch):
    from torch._inductor import compile_fx

    calls = []
    original = compile_fx.compile_fx_inner
    monkeypatch.setattr(compile_fx, "compile_fx_inner", lambda *a, **k: calls.append(1) or original(*a, **k))
    options = dict(optimization_level=2, compilation_config=OPENED, max_num_batched_tokens=64, max_num_seqs=32)
    with compiled_engine("qwen3", **options) as (llm, found):
        assert len(calls) == found[0].num_pieces == 4
        for seed in range(3):
            answers(llm, seed)
        prompts = random_prompts(9, list(range(1, 33)))
        llm.generate(prompts, SamplingParams(max_tokens=40, ignore_eos=True, temperature=0), use_tqdm=False)
    assert len(calls) == 4


def test_the_second_start_finds_what_the_first_compiled(cache: Path):
    from torch._dynamo.utils import counters

    def start(**options) -> tuple[int, int]:
        before = {k: counters["inductor"][k] for k in ("fxgraph_cache_miss", "fxgraph_cache_hit")}
        with compiled_engine("llama", **{"optimization_level": 2, "compilation_config": OPENED, **options}):
            pass
        return tuple(counters["inductor"][k] - before[k] for k in before)

    root = cache / "compile"
    folders = set(root.glob("*"))
    assert start() == (4, 0)  # misses, hits
    (mine,) = set(root.glob("*")) - folders
    assert mine.stat().st_mode & 0o077 == 0
    assert start() == (0, 4)
    assert start(seed=7, long_prefill_token_threshold=64) == (0, 4)  # change no graph
    assert set(root.glob("*")) == {*folders, mine}
    assert start(compilation_config={"custom_ops": ["none", "+rms_norm"]}) == (4, 0)  # changes all of them
    assert len(set(root.glob("*"))) == len(folders) + 2


def test_a_machine_without_a_compiler_says_so_and_runs(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(compiling.logger, "warning", lambda text, *values: lines.append(text % values))
    monkeypatch.setattr(logging.getLogger("kvasir.compilation.forward"), "warning", compiling.logger.warning)

    def no_compiler(*args):
        raise RuntimeError("No working C++ compiler found in torch._inductor.config.cpp.cxx: (None, 'g++')\nmore")

    monkeypatch.setattr(compiling, "inductor", no_compiler)
    with engine("llama") as llm:
        want = answers(llm)
    with compiled_engine("llama", optimization_level=2, compilation_config=OPENED) as (llm, found):
        assert found == [None]
        assert answers(llm) == want
    (line,) = lines
    assert line.startswith("not compiled, the model runs as it is: RuntimeError: No working C++ compiler found")
    assert "\n" not in line


def test_level_0_loads_no_compiler():
    """What is not asked for costs no start."""
    import subprocess
    import sys

    code = (
        "import sys; from kvasir import LLM; LLM(sys.argv[1], max_num_seqs=2).shutdown();"
        "print(sorted(m for m in sys.modules if m.startswith(('torch._inductor', 'kvasir.compilation.'))))"
    )
    command = [sys.executable, "-c", code, str(checkpoint("llama"))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=True)
    loaded = done.stdout.splitlines()[-1]
    assert "forward" not in loaded and "trace" not in loaded and "torch._inductor.compile_fx" not in loaded


def test_each_compiled_piece_is_a_sign_of_life():
    """A core is given up after silence, and all pieces together may take longer than it may be silent."""

    def beats(**options) -> int:
        heard: list[Phase | None] = []
        args = EngineArgs(model=str(checkpoint("llama")), dtype="float32", cpu_threads=1, max_num_seqs=4, **options)
        worker = make_worker(resolve(args).config, time.perf_counter(), heard.append)
        worker.start()
        worker.stop()
        start = heard.index(Phase.COMPILE)
        return heard[start : heard.index(Phase.CAPTURE)].count(None)

    plain = beats()
    # The phase's end, the trace, and four pieces.
    assert beats(optimization_level=2, compilation_config=OPENED) == plain + 6
