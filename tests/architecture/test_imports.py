"""The ranks hold, torch stays in the worker, and what is imported is declared."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT, imported_modules, sources, without_functions

# Import name -> distribution, where they differ.
DISTRIBUTIONS = {"yaml": "pyyaml", "prometheus_client": "prometheus-client"}
# Optional at run time: on CUDA machines torch brings triton; the rest is asked for
# inside a function that says what to install.
OPTIONAL = {"triton", "opentelemetry", "flash-attn", "flashinfer"}

WORKER_RING = {"ops", "distributed", "attention", "quantization", "sampling", "compilation", "layers", "models"}
WORKER_RING |= {"loader", "worker", "platforms"}
TORCH_DOORS = {"kvasir/assembly/worker.py", "kvasir/testing/models.py"}


def test_contracts_of_import_linter():
    """The rank table and the list of rings without torch are in pyproject.toml."""
    command = Path(sys.executable).parent / "lint-imports"
    if not command.exists():
        pytest.fail("import-linter is not installed: pip install -e '.[test,dev]'")
    done = subprocess.run([command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_torch_only_where_it_belongs():
    """The list of import-linter names packages; this one holds for packages that are yet to come, too."""
    for path, tree in sources().items():
        package = path.split("/")[1]
        if package in WORKER_RING or path in TORCH_DOORS or path.endswith("/worker.py"):
            continue
        for line, module in imported_modules(tree):
            assert module.split(".")[0] not in ("torch", "triton"), f"{path}:{line} imports {module}"


def test_torch_in_platforms_only_inside_functions():
    for path, tree in sources().items():
        if path.startswith("kvasir/platforms/"):
            for line, module in imported_modules(without_functions(tree)):
                assert module.split(".")[0] != "torch", f"{path}:{line}"


def test_imports_are_absolute():
    for path, tree in sources().items():
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}:{node.lineno} imports relatively"


def test_third_party_imports_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {_name(line) for line in project["dependencies"]} | OPTIONAL
    for path, tree in sources().items():
        for line, module in imported_modules(tree):
            top = module.split(".")[0]
            if top == "kvasir" or top in sys.stdlib_module_names:
                continue
            name = DISTRIBUTIONS.get(top, top).lower().replace("_", "-")
            assert name in declared, f"{path}:{line} imports {top}, which pyproject.toml does not declare"


def _name(requirement: str) -> str:
    for i, letter in enumerate(requirement):
        if letter in "<>=!~;[ ":
            return requirement[:i].lower().replace("_", "-")
    return requirement.lower().replace("_", "-")
