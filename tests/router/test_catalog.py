"""Which models there are, from a folder and from a file; what is wrong is said with its place."""

from pathlib import Path

import pytest

from kvasir.config import EngineArgs
from kvasir.entrypoints.router.catalog import Catalog
from kvasir.errors import ConfigError, NotFoundError


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    return folder


def names(catalog: Catalog) -> list[str]:
    return [spec.name for spec in catalog.specs()]


def test_a_folder(tmp_path: Path) -> None:
    clock = Clock()
    make(tmp_path, "b", "owner/a", "owner/c", ".hidden")
    (tmp_path / "no-model").mkdir()
    (tmp_path / "file").touch()
    catalog = Catalog(EngineArgs(max_num_seqs=7), str(tmp_path), None, clock)
    assert names(catalog) == ["b", "owner/a", "owner/c"]
    spec = catalog.find("owner/a")
    assert (spec.args.model, spec.args.max_num_seqs) == (str(tmp_path / "owner/a"), 7)
    assert spec.args.served_model_name == ["owner/a"]
    for name in ("owner", "../b", "no-model", ""):
        with pytest.raises(NotFoundError, match="owner/a"):
            catalog.find(name)
    make(tmp_path, "new")
    clock.now += 3
    assert catalog.find("new").name == "new"
    (tmp_path / "b" / "config.json").unlink()
    clock.now += 3
    assert names(catalog) == ["new", "owner/a", "owner/c"]
    assert catalog.find("owner/a") is spec


def test_a_file(tmp_path: Path) -> None:
    make(tmp_path / "models", "small", "other")
    (tmp_path / "models.yaml").write_text(
        """
models:
  small:
    model: /somewhere/else
    aliases: [gpt-4o-mini]
    max-model-len: 1k
    max_num_seqs: 3
    tool_call_parser: hermes
    pin: true
    load: true
  kvasir-demo:
"""
    )
    catalog = Catalog(EngineArgs(max_num_seqs=7), str(tmp_path / "models"), str(tmp_path / "models.yaml"))
    assert names(catalog) == ["small", "kvasir-demo", "other"]
    small = catalog.find("gpt-4o-mini")
    assert small is catalog.find("small") and small.pin and small.load
    assert (small.args.model, small.args.max_model_len, small.args.max_num_seqs) == ("/somewhere/else", 1000, 3)
    assert small.args.served_model_name == ["small", "gpt-4o-mini"]
    assert small.server == (("tool_call_parser", "hermes"),)
    demo = catalog.find("kvasir-demo")
    assert (demo.args.model, demo.args.max_num_seqs, demo.pin) == ("kvasir-demo", 7, False)


def test_a_single_model_need_not_be_named(tmp_path: Path) -> None:
    assert Catalog(EngineArgs(), str(make(tmp_path, "one")), None).find(None).name == "one"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "must hold"),
        ("models: []", "must hold"),
        ("models: {}", "must hold"),
        ("models: [", "YAML"),
        ("models: {a: [1]}", "a: must be"),
        ("models: {a: {max_modle_len: 5}}", "a: .*max_model_len"),
        ("models: {a: {max_num_seqs: -5}}", "a: max_num_seqs"),
        ("models: {a: {pin: 7}}", "a: pin must be true or false"),
        ("models: {a: {aliases: b}}", "a: aliases"),
        ("models: {a: {aliases: [b]}, b: {}}", "two models are called 'b'"),
        ("models: {a: {tool_call_parser: nothing}}", "a: .*nothing"),
        ("models: {a: {lora_modules: x}}", "a: .*LoRA"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"(?s)--models-config .*{match}"):
        Catalog(EngineArgs(), None, str(path))


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Catalog(EngineArgs(), str(tmp_path / "none"), None)
    with pytest.raises(ConfigError, match="no model"):
        Catalog(EngineArgs(), str(tmp_path), None)
    with pytest.raises(ConfigError, match="cannot be read"):
        Catalog(EngineArgs(), None, str(tmp_path / "none.yaml"))
    with pytest.raises(ConfigError, match="belongs to one model"):
        Catalog(EngineArgs(model="x"), str(make(tmp_path, "a")), None)
