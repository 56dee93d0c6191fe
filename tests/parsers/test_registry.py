"""Parsers by name: the built-in ones, those that installed packages bring, and what the chat template tells."""

from pathlib import Path

import pytest

from kvasir.errors import ConfigError
from kvasir.parsers import ContentDelta, ToolSchema, detect_tool_family, reasoning_family, tool_family

MODULE = """
from kvasir.parsers import ContentDelta, ReasoningFamily

class Shout:
    def __init__(self, names):
        self.names = names
    def push(self, text):
        return [ContentDelta(text.upper())]
    def finish(self):
        return [ContentDelta(",".join(self.names))]

def shout(tools):
    return Shout([tool.name for tool in tools])

thoughts = ReasoningFamily(lambda prompt: Shout([prompt or ""]), special_tokens=True)
wrong = 5
"""
ENTRY_POINTS = """
[kvasir.tool_parsers]
shout = shouting_parsers:shout
wrong = shouting_parsers:wrong
absent = shouting_parsers:absent

[kvasir.reasoning_parsers]
thoughts = shouting_parsers:thoughts
"""


@pytest.fixture
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package, as the import system sees one."""
    (tmp_path / "shouting_parsers.py").write_text(MODULE)
    info = tmp_path / "shouting_parsers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting-parsers\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("_package")
def test_plugins() -> None:
    parser = tool_family("shout").make([ToolSchema("f"), ToolSchema("g")])
    assert parser.push("hi") == [ContentDelta("HI")] and parser.finish() == [ContentDelta("f,g")]
    family = reasoning_family("thoughts")
    assert family.special_tokens and family.make("p").finish() == [ContentDelta("p")]
    with pytest.raises(ConfigError, match="neither a family nor a function"):
        tool_family("wrong")
    with pytest.raises(ConfigError, match="does not load"):
        tool_family("absent")
    with pytest.raises(ConfigError, match=r"hermes.*shout"):
        tool_family("nobody")


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ('<tool_call>\n{"name": <function-name>}', "hermes"),
        (r"<tool_call>\n{\"name\"", "hermes"),
        ("<|start|>assistant to=functions.{{ name }}<|channel|>commentary", "openai"),
        ("{{ messages }}", None),
        (None, None),
    ],
)
def test_what_a_template_tells(template: str | None, family: str | None) -> None:
    assert detect_tool_family(template) == family
