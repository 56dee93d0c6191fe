"""Who asks for no grammar loads no grammar library, and a core that reads none loads no tokenizer."""

import subprocess
import sys

import pytest

from tests.architecture.tree import ROOT


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [
        ("kvasir.assembly.core", {"llguidance", "tokenizers", "jinja2"}),
        ("kvasir.assembly.front", {"llguidance"}),
        ("kvasir.entrypoints.http.app", {"llguidance"}),
    ],
)
def test_nothing_is_loaded_ahead(module: str, unloaded: set[str]) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not unloaded & set(done.stdout.split())
