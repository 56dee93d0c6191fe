"""Docs that can be checked are checked."""

import re

import pytest

import kvasir
from kvasir.config import EngineArgs, ServerArgs
from kvasir.config.docs import configuration_page
from tests.architecture.tree import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_configuration_reference_is_up_to_date():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == configuration_page(), "run `make docs`"


@pytest.mark.parametrize("name", [n for n in kvasir.__all__ if n != "__version__"])
def test_every_public_name_resolves(name: str):
    assert getattr(kvasir, name).__module__.startswith("kvasir.")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_flags_in_kvasir_commands_exist(page):
    known = {f for o in (EngineArgs.options() | ServerArgs.options()).values() for f in o.flags} | {
        "--config",
        "--help",
    }
    for line in re.findall(r"kvasir serve[^\n`]*", page.read_text(encoding="utf-8")):
        for flag in re.findall(r"(?<!\S)--[a-z][a-z-]+", line):
            assert flag in known or flag.replace("--no-", "--") in known, f"{page.name}: {flag} in {line!r}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_in_docs_exist(page):
    for path in re.findall(r"`((?:kvasir|tests|docs|examples|benchmarks|tools)/[\w./-]+)`", page.read_text("utf-8")):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_make_targets_in_docs_exist():
    makefile = (ROOT / "Makefile").read_text()
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    targets = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"make {target}"
