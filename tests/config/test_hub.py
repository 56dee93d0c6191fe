"""A name becomes a folder without the network; everything else is said clearly."""

from pathlib import Path

import pytest

from kvasir.config.hub import resolve_model_path
from kvasir.errors import ConfigError


def _cached(cache: Path, name: str, commit: str = "a" * 40) -> Path:
    """The layout in which the hub's library keeps a download."""
    repo = cache / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    snapshot = repo / "snapshots" / commit
    snapshot.mkdir(parents=True)
    return snapshot


def test_folder_is_itself(tmp_path: Path) -> None:
    assert resolve_model_path(str(tmp_path)) == tmp_path
    assert resolve_model_path(tmp_path) == tmp_path


def test_id_in_the_cache_needs_no_network(tmp_path: Path) -> None:
    snapshot = _cached(tmp_path, "owner/name")
    (snapshot / "config.json").write_text("{}")
    assert resolve_model_path("owner/name", download_dir=str(tmp_path), offline=True) == snapshot


def test_half_a_download_is_named(tmp_path: Path) -> None:
    snapshot = _cached(tmp_path, "owner/name")
    with pytest.raises(ConfigError, match=f"{snapshot} has no config.json"):
        resolve_model_path("owner/name", download_dir=str(tmp_path), offline=True)


def test_offline_says_what_and_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        resolve_model_path("owner/name", revision="v2", download_dir=str(tmp_path), offline=True)
    assert all(part in error.value.message for part in ("'owner/name'", "'v2'", str(tmp_path), "offline"))


def test_the_variable_means_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="offline"):
        resolve_model_path("owner/name", download_dir=str(tmp_path))


def test_errors_of_the_hub_keep_their_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(*args: object, **kwargs: object) -> str:
        raise OSError("401 Client Error\nand a long trace")

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ConfigError, match="401 Client Error") as error:
        resolve_model_path("owner/name", download_dir=str(tmp_path))
    assert "long trace" not in error.value.message and "HF_TOKEN" in error.value.message


@pytest.mark.parametrize("name", ["./no/such/folder", "/no/such/folder", "a/b/c", "", "owner/../name"])
def test_what_is_neither_folder_nor_id(name: str) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        resolve_model_path(name, offline=True)


def test_file_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    with pytest.raises(ConfigError, match="is a file"):
        resolve_model_path(str(file))
