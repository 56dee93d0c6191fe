"""Importing Kvasir, and asking its command for a version or help, loads nothing heavy."""

import subprocess
import sys
import time

import pytest

from tests.architecture.tree import ROOT

HEAVY = ("torch", "numpy", "transformers", "starlette", "uvicorn", "huggingface_hub", "tokenizers", "triton")
REPORT = f"import sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
LIMIT_S = 0.3


def run(code: str, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def best_of(tries: int, *command: str) -> float:
    """The quickest of several runs: what the work itself takes, on a machine that has other things to do."""
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


@pytest.mark.parametrize(
    "module", ["kvasir", "kvasir.config", "kvasir.config.cli", "kvasir.messages", "kvasir.entrypoints.cli.main"]
)
def test_nothing_heavy(module: str):
    assert run(f"import {module}; {REPORT}").split() == []


@pytest.mark.parametrize("flag", ["--version", "--help"])
def test_nothing_heavy_behind_the_command(flag: str):
    code = f"""
import runpy, sys
sys.argv = ["kvasir", {flag!r}]
try:
    runpy.run_module("kvasir", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print()
print("loaded:", *[m for m in {HEAVY!r} if m in sys.modules])
"""
    assert run(code).splitlines()[-1] == "loaded:"


def test_public_types_need_no_torch():
    names = "EngineArgs, SamplingParams, RequestOutput, TextPrompt"
    assert run(f"from kvasir import {names}; {REPORT}").split() == []


@pytest.mark.parametrize("command", [("-c", "import kvasir"), ("-m", "kvasir", "--version")], ids=["import", "version"])
def test_it_takes_no_time(command: tuple[str, ...]):
    bare = best_of(5, "-c", "pass")
    assert best_of(7, *command) - bare < LIMIT_S
