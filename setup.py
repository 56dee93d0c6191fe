"""Builds `kvasir/_native.so`, the CPU kernels of csrc/, with whatever C++ compiler there is.

Everything else about the package is in pyproject.toml. No header of torch or Python is needed (csrc/torch/abi.h), so
the build takes a compiler and some seconds. Without a compiler the package installs all the same, says so in one
line, and computes with torch alone; KVASIR_REQUIRE_NATIVE=1 makes that an error instead. Sources in CUDA are
taken along: they are compiled on the machine that has the card.
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

CSRC = Path(__file__).parent / "csrc"
CUDA = sorted((CSRC / "cuda").glob("*.cu"))
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"]
ISAS = {"avx2": ["-mavx2", "-mfma"], "avx512": AVX512, "avx512bf16": [*AVX512, "-mavx512bf16"]}
"""Instruction sets that a compiler may not know; the library chooses among those it has when it is loaded."""


class BuildNative(build_ext):
    def get_ext_filename(self, name: str) -> str:
        return f"{name.replace('.', '/')}.so"  # a plain library: it is loaded by path and has no Python in it

    def build_extension(self, extension: Extension) -> None:
        target = Path(self.get_ext_fullpath(extension.name))
        target.unlink(missing_ok=True)
        try:
            build(target, Path(self.build_temp))
        except (OSError, subprocess.CalledProcessError) as error:
            if os.environ.get("KVASIR_REQUIRE_NATIVE", "0") not in ("", "0"):
                raise
            lines = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            reason = next((line for line in lines if "error" in line.lower()), lines[0])
            print(f"kvasir: native CPU kernels are not built, torch computes instead ({reason})", file=sys.stderr)

    def get_outputs(self) -> list[str]:
        return [path for path in super().get_outputs() if Path(path).exists()]


class TakeCudaSources(build_py):
    """Into the package, except where it is used in place: kvasir/ops/cuda/kernel.py finds csrc/cuda itself there."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            folder = Path(self.build_lib) / "kvasir" / "assets" / "cuda"
            folder.mkdir(parents=True, exist_ok=True)
            for source in CUDA:
                shutil.copy(source, folder)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        taken = [] if self.editable_mode else [f"{self.build_lib}/kvasir/assets/cuda/{source.name}" for source in CUDA]
        return [*super().get_outputs(include_bytecode), *taken]


def run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def build(target: Path, folder: Path) -> None:
    compiler = [*shlex.split(os.environ.get("CXX", "c++")), *FLAGS, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    folder.mkdir(parents=True, exist_ok=True)

    def compiled(source: str, name: str, *flags: str) -> str:
        run([*compiler, *flags, "-c", str(CSRC / source), "-o", str(folder / f"{name}.o")])
        return str(folder / f"{name}.o")

    def isa(name: str) -> tuple[str, str | None]:
        try:
            return name, compiled("cpu/isa.cpp", name, *ISAS[name], f"-DKVASIR_ISA={name}")
        except subprocess.CalledProcessError:
            return name, None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        isas = pool.map(isa, ISAS if platform.machine() in ("x86_64", "AMD64") else ())
        plain = pool.map(
            lambda pair: compiled(*pair),
            [
                ("cpu/isa.cpp", "baseline"),
                ("cpu/parallel.cpp", "parallel"),
                ("torch/abi.cpp", "abi"),
                ("torch/ops.cpp", "ops"),
            ],
        )
        objects = {name: path for name, path in isas if path is not None}
        dispatch = compiled("cpu/dispatch.cpp", "dispatch", *(f"-DKVASIR_HAS_{name}" for name in objects))
    target.parent.mkdir(parents=True, exist_ok=True)
    run([*compiler, "-shared", "-pthread", *plain, *objects.values(), dispatch, "-ldl", "-o", str(target)])


if __name__ == "__main__":
    sources, headers = (
        [str(path.relative_to(CSRC.parent)) for path in sorted(CSRC.rglob(pattern))] for pattern in ("*.cpp", "*.h")
    )
    setup(
        ext_modules=[Extension("kvasir._native", sources, depends=headers, optional=True)],
        cmdclass={"build_ext": BuildNative, "build_py": TakeCudaSources},
    )
