"""csrc/cpu by itself: compiled with sanitizers for addresses and undefined behaviour, and run on every instruction set;
and what keeps instruction sets apart."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kvasir.platforms.native import ISAS
from setup import CSRC, FLAGS
from setup import ISAS as FLAGS_OF

COMPILER = shutil.which(os.environ.get("CXX", "c++"))
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
SANITIZED = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def compile(source: Path, target: Path, *flags: str) -> Path:
    subprocess.run([COMPILER, *FLAGS, *flags, "-c", str(source), "-o", str(target)], check=True)
    return target


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_kernels_stay_in_their_arrays(tmp_path: Path) -> None:
    objects = [compile(CSRC / "cpu/parallel.cpp", tmp_path / "parallel.o", *SANITIZED)]
    for name, flags in {"baseline": [], **FLAGS_OF}.items():
        flags = [*SANITIZED, *flags, f"-DKVASIR_ISA={name}"]
        objects.append(compile(CSRC / "cpu/isa.cpp", tmp_path / f"{name}.o", *flags))
    has = [f"-DKVASIR_HAS_{name}" for name in FLAGS_OF]
    objects.append(compile(CSRC / "cpu/dispatch.cpp", tmp_path / "dispatch.o", *SANITIZED, *has))
    objects.append(compile(Path(__file__).with_name("kernels_test.cpp"), tmp_path / "test.o", *SANITIZED))
    program = tmp_path / "kernels_test"
    subprocess.run([COMPILER, *SANITIZED, *map(str, objects), "-pthread", "-o", program], check=True)
    done = subprocess.run([program, "8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "baseline ok" in done.stdout


@pytest.mark.parametrize("isa", ISAS[1:])
def test_no_code_of_one_instruction_set_can_serve_another(isa: str, tmp_path: Path) -> None:
    """A weak symbol is one that the linker may take from any object, also from one this machine cannot run: so each
    must have the instruction set in its name."""
    if shutil.which("nm") is None:
        pytest.skip("no nm")
    flags = ["-O1", *FLAGS_OF[isa], f"-DKVASIR_ISA={isa}"]
    table = subprocess.run(
        ["nm", "-C", compile(CSRC / "cpu/isa.cpp", tmp_path / "isa.o", *flags)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    weak = [line for line in table.splitlines() if " W " in line or " V " in line or " u " in line]
    shared = [line for line in weak if f"kvasir::{isa}::" not in line]
    assert not shared
    assert f"kvasir::kernels_{isa}" in table
