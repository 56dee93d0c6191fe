"""`kvasir precompile` leaves on disk what a start looks up there, kernel by kernel."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kvasir.assembly import precompile as root
from kvasir.assembly import worker as worker_root
from kvasir.assembly.facts import Facts
from kvasir.assembly.precompile import Card, precompile
from kvasir.assembly.resolve import resolve
from kvasir.attention.triton import TritonBackend
from kvasir.compilation import CompileAhead, compiler_process
from kvasir.compilation.compiler_process import CudaJob, Job, TritonJob, kept_files
from kvasir.compilation.noting import KernelNotes
from kvasir.config import EngineArgs
from kvasir.entrypoints.cli.main import main
from kvasir.ops.cuda import nvrtc
from kvasir.ops.on_paper import ShapesOnly
from kvasir.ops.target import Target, compile_for, target_of
from kvasir.platforms.paper import PaperPlatform
from kvasir.worker.worker import Worker
from tests.fixtures import checkpoint

FOUR_LAYERS = {"num_hidden_layers": 4}
SMALL: dict[str, Any] = {"max_model_len": 1024, "max_num_seqs": 96, "hf_overrides": FOUR_LAYERS}
CARD = Card(processors=131)
"""A card of its own: Triton remembers kernels by target, and other tests have compiled some for an H100."""
BENCHMARKS = Path(__file__).parents[2] / "benchmarks/models"


@pytest.fixture(autouse=True)
def caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setenv("KVASIR_CACHE_DIR", str(tmp_path / "kvasir"))
    return tmp_path / "triton"


class CardWithMemory(PaperPlatform):
    """Tensors are the host's, with addresses and contents, as on a card."""

    device_type = "cpu"

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> torch.Tensor:
        return torch.zeros(shape, dtype=dtype)


class Queued(Exception):
    """All that a start has to queue is queued."""


@pytest.fixture
def worker_with_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """(arguments of the engine) -> a worker whose tensors have memory, on what counts as a card."""
    monkeypatch.setattr(worker_root, "get_attn_backend", lambda need, asked: (TritonBackend, []))

    def make(args: EngineArgs) -> Worker:
        facts = Facts("cuda", "a test", 80 << 30, 2, capability=(9, 0), num_cards=1)
        config = resolve(args, usage="server", facts=facts).config
        return worker_root.make_worker(config, 0.0, platform=CardWithMemory((9, 0)))

    with compile_for(Target("cuda", CARD.capability, CARD.processors), "cpu"):
        yield make


def launched(worker: Worker) -> list[Job]:
    jobs: list[Job] = []
    with KernelNotes(jobs.append).instead_of_launching():
        worker.launch_all_kinds()
    return jobs


def queued(monkeypatch: pytest.MonkeyPatch, worker: Worker) -> list[Job]:
    """What its start queues."""
    jobs: list[Job] = []

    def queue_and_stop(ahead: CompileAhead, steps: Any) -> None:
        ahead._send = jobs.append
        queue(ahead, steps)
        raise Queued

    queue = CompileAhead.queue
    monkeypatch.setattr(CompileAhead, "start", lambda self: None)
    monkeypatch.setattr(CompileAhead, "queue", queue_and_stop)
    with pytest.raises(Queued):
        worker.start()
    return jobs


def noted(monkeypatch: pytest.MonkeyPatch, args: EngineArgs, card: Card) -> list[Job]:
    jobs: list[Job] = []
    monkeypatch.setattr(compiler_process, "compile_all", lambda given, done: jobs.extend(given))
    precompile(args, card)
    return jobs


def facts_of(jobs: list[Job]) -> list[tuple[Any, ...]]:
    return sorted((j.module, j.name, j.specialization, j.target) for j in jobs if isinstance(j, TritonJob))


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("tiny", SMALL),
        ("tiny", SMALL | {"hf_overrides": FOUR_LAYERS | {"head_dim": 64}}),
        (
            "tiny",
            SMALL
            | {
                "hf_overrides": FOUR_LAYERS
                | {
                    "use_sliding_window": True,
                    "sliding_window": 64,
                    "layer_types": ["full_attention", "sliding_attention"] * 2,
                }
            },
        ),
        (BENCHMARKS / "qwen3-0.6b", {"hf_overrides": FOUR_LAYERS}),
        (BENCHMARKS / "qwen3-0.6b", {"max_num_seqs": 7, "max_num_batched_tokens": 300, "hf_overrides": FOUR_LAYERS}),
    ],
)
def test_tensors_without_memory_launch_the_variants_of_those_with(
    monkeypatch: pytest.MonkeyPatch, worker_with_memory: Any, model: Any, options: dict[str, Any]
) -> None:
    args = EngineArgs(model=str(checkpoint("qwen3") if model == "tiny" else model), load_format="dummy", **options)
    expected = facts_of(launched(worker_with_memory(args)))
    assert len(expected) >= 20
    assert facts_of(noted(monkeypatch, args, CARD)) == expected


def test_the_command_and_then_a_start(
    caches: Path, worker_with_memory: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = str(checkpoint("qwen3"))
    options = ["--load-format", "dummy", "--max-model-len", "1024", "--max-num-seqs", "96"]
    overrides = ["--hf-overrides", json.dumps(FOUR_LAYERS)]
    words = ["precompile", model, *options, *overrides, "--processors", "131", "--no-progress"]
    assert main(words) == 0
    said = re.search(
        r"(\d+) kernels for compute capability 9.0 \(0 of them were there\) in (.*): ", capsys.readouterr().out
    )
    assert said is not None and said[2].split(", ")[0] in map(str, (caches, caches.parent / "kvasir/cuda"))
    jobs = queued(monkeypatch, worker_with_memory(EngineArgs(model=model, load_format="dummy", **SMALL)))
    assert len(jobs) == int(said[1])
    assert all(map(kept_files, jobs)), "a start finds each of them"
    monkeypatch.setattr(compiler_process._Compilers, "_fork", lambda self: pytest.fail("compiled again"))
    assert main(words) == 0
    assert f"({said[1]} of them were there)" in capsys.readouterr().out


def test_a_large_model_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights would be 141 GB."""
    args = EngineArgs(model=str(BENCHMARKS / "llama-3.1-70b"), load_format="dummy")
    assert len(noted(monkeypatch, args, CARD)) > 10


def test_an_older_card_gets_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    args = EngineArgs(model=str(BENCHMARKS / "qwen3-0.6b"), load_format="dummy")
    jobs = noted(monkeypatch, args, Card((8, 0), 108, 40 << 30))
    assert {job.target[1] for job in jobs if isinstance(job, TritonJob)} == {80}
    assert "prefill_overlap_kernel" not in {job.name for job in jobs if isinstance(job, TritonJob)}


def test_kernels_in_cuda_are_noted_without_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "library_path", lambda: Path("/somewhere/libnvrtc.so.13"))
    monkeypatch.setattr(nvrtc, "_library", nvrtc._library.__wrapped__)  # another test may have loaded one
    args = EngineArgs(model=str(BENCHMARKS / "qwen3-0.6b"), load_format="dummy")
    jobs = noted(monkeypatch, args, Card(processors=133))  # another one: choices are remembered by target, too
    recipes = [job.recipe for job in jobs if isinstance(job, CudaJob)]
    assert recipes and all("--gpu-architecture=sm_90a" in recipe.options for recipe in recipes)
    assert root._left_out(resolve(args).config) == []


def test_what_cannot_be_compiled_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(nvrtc, "library_path", lambda: Path("/somewhere/libnvrtc.so.13"))
    monkeypatch.setattr(nvrtc, "_library", nvrtc._library.__wrapped__)  # another test may have loaded one
    job = CudaJob(compiler_process.Recipe("skinny_linear.cu", "skinny_linear", ("--gpu-architecture=sm_90a",)))
    with pytest.raises(OSError, match="libnvrtc"):
        compiler_process.compile_all([job])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--capability", "9"], "is not like 9.0"),
        (["--capability", "7.5"], "from 8.0"),
        (["--processors", "0"], "whole number"),
    ],
)
def test_mistakes(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["precompile", *words])
    assert stop.value.code == 2 and why in capsys.readouterr().err


def test_the_host_has_nothing_to_compile(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["precompile", "--device", "cpu"]) == 2
    assert "device is cpu" in capsys.readouterr().err


def test_a_stand_in_ends_with_its_block() -> None:
    meta = torch.device("meta")
    with compile_for(Target("cuda", (8, 6), 84)):
        assert target_of(meta) == Target("cuda", (8, 6), 84)
        assert target_of(torch.device("cpu")) == Target("cpu")
    assert target_of(meta) == Target("meta")


def test_paper_imports_no_symbolic_shapes() -> None:
    """They take longer to import than all that a start does on paper."""
    code = """if True:
        import sys
        from kvasir.assembly import precompile
        from kvasir.compilation import compiler_process
        from kvasir.config import EngineArgs

        compiler_process.compile_all = lambda jobs, done: print("jobs", len(jobs))
        precompile.precompile(EngineArgs(model=sys.argv[1], load_format="dummy"), precompile.Card())
        print("sympy" in sys.modules, "torch._dynamo" in sys.modules)
    """
    command = [sys.executable, "-c", code, str(BENCHMARKS / "qwen3-0.6b")]
    jobs, modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert int(jobs.split()[1]) > 20
    assert modules == "False False"


def test_shapes_on_paper_are_those_of_torch() -> None:
    """Whatever is done in a short way there."""
    x, table = torch.zeros(3, 4, device="meta"), torch.zeros(9, 4, dtype=torch.bfloat16, device="meta")
    rows = torch.zeros(5, dtype=torch.int64, device="meta")

    def results() -> list[torch.Tensor]:
        made = table.clone()
        made[rows] = table[rows]
        return [
            torch.arange(7, dtype=torch.int32, device="meta"),
            torch.arange(1, 9, 2, device=torch.device("meta")),
            torch.nn.functional.linear(x, torch.zeros(6, 4, device="meta"), torch.zeros(6, device="meta")),
            torch.nn.functional.embedding(rows, table),
            torch.empty_like(x),
            torch.empty_like(x, dtype=torch.int8),
            torch.zeros_like(x, device="cpu"),
            rows.diff(),
            table[rows],
            x[1],
            made.index_copy_(0, rows, table[:5]),
            made.index_add_(0, rows, table[:5]),
            made.index_put_((rows,), table[:5]),
        ]

    expected = results()
    with ShapesOnly():
        found = results()
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.stride(), a.dtype, a.device) == (b.shape, b.stride(), b.dtype, b.device)
