"""Traces of torch's profiler: from a call to a file, bounded, and never a step's trouble."""

import gzip
import json
from pathlib import Path

import pytest

from kvasir.errors import ConfigError, EngineError, UserError
from kvasir.worker.profile import MAX_STEPS, StepProfiler
from tests.e2e.engines import engine, random_prompts


def names(path: str | Path) -> set[str]:
    with gzip.open(path) as file:
        return {event["name"] for event in json.load(file)["traceEvents"]}


@pytest.mark.parametrize("loop", [False, True])
def test_an_engine_s_steps_in_a_file(tmp_path: Path, loop: bool):
    with engine("llama", profile=str(tmp_path), async_scheduling=loop) as llm:
        llm.start_profile()
        with pytest.raises(EngineError, match="running already"):
            llm.start_profile()
        llm.generate(random_prompts(0, [5, 9]), use_tqdm=False)
        written = llm.stop_profile()
        assert {"execute_model", "sample_tokens"} <= names(written)
        assert {"aten::mm", "kvasir::linear"} & names(written)  # torch's products, or those of the native library
        assert list(tmp_path.iterdir()) == [Path(written)]
        with pytest.raises(EngineError, match="start one first"):
            llm.stop_profile()


def test_it_ends_by_itself(tmp_path: Path):
    with engine("llama", profile=str(tmp_path)) as llm:
        llm.start_profile(num_steps=3)
        llm.generate(random_prompts(0, [5]), use_tqdm=False)
        (written,) = tmp_path.iterdir()
        with gzip.open(written) as file:
            assert sum(event["name"] == "sample_tokens" for event in json.load(file)["traceEvents"]) == 3
        assert llm.stop_profile() == str(written)
        llm.start_profile(num_steps=2)  # and again


def test_a_trace_that_nobody_ends_is_written_at_the_end(tmp_path: Path):
    with engine("llama", profile=str(tmp_path)) as llm:
        llm.start_profile()
        llm.generate(random_prompts(0, [5]), use_tqdm=False)
    assert len(list(tmp_path.iterdir())) == 1


def test_only_with_a_folder():
    with pytest.raises(ConfigError, match="--profile DIR"):
        StepProfiler(None, "cpu").start()


@pytest.mark.parametrize("num_steps", [0, -1, MAX_STEPS + 1, 1.5, True])
def test_bounds(tmp_path: Path, num_steps):
    with pytest.raises(UserError, match=f"between 1 and {MAX_STEPS}"):
        StepProfiler(tmp_path, "cpu").start(num_steps)


def test_a_file_that_cannot_be_written_fails_no_step(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    profiler = StepProfiler(tmp_path / "taken", "cpu")
    profiler.start(1)
    profiler.step()
    with pytest.raises(EngineError, match="could not be written"):
        profiler.stop()
    with pytest.raises(UserError, match="start one first"):
        profiler.stop()
