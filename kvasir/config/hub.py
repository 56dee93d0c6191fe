"""A model's name -> the local folder that holds its files; the hub is asked only when the name is no folder."""

import re
from pathlib import Path

from kvasir import envs
from kvasir.errors import ConfigError

# Weights as safetensors only: a pickle can run code when it is opened.
FILE_PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja"]
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


def resolve_model_path(
    model: str | Path, revision: str | None = None, download_dir: str | None = None, offline: bool = False
) -> Path:
    """The folder of `model`: itself when it is a folder, else the hub's snapshot of that id (downloaded if need be).

    Raises:
        ConfigError: nothing was found; the text says what was looked for and where.
    """
    name = str(model)
    if not name:  # Path("") would be the current folder
        raise ConfigError("model is empty; there is no such folder. Give a folder or a hub id (owner/name).")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ConfigError(f"model {name!r} is a file; give the folder that holds config.json and the weights.")
    if not _HUB_ID.fullmatch(name):
        raise ConfigError(f"model {name!r}: there is no such folder, and it is no hub id (owner/name) either.")
    return _snapshot(name, revision, download_dir, offline or envs.HUB_OFFLINE.flag)


def _snapshot(name: str, revision: str | None, download_dir: str | None, offline: bool) -> Path:
    try:
        import huggingface_hub as hub
        from huggingface_hub import constants
    except ImportError:
        raise ConfigError(
            f"model {name!r} is no local folder, and huggingface_hub, which fetches models by id, is not installed: "
            "pip install huggingface_hub, or give a folder."
        ) from None
    cache = download_dir or constants.HF_HUB_CACHE
    what = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    try:
        found = Path(
            hub.snapshot_download(
                name, revision=revision, cache_dir=cache, allow_patterns=FILE_PATTERNS, local_files_only=offline
            )
        )
    except Exception as error:  # the library raises from several trees (its own, requests', httpx's, OSError)
        if offline:
            raise ConfigError(
                f"model {what} is no local folder and not in the hub cache {cache}, and the engine is offline "
                "(HF_HUB_OFFLINE or offline mode). Download it first, or give a folder."
            ) from error
        raise ConfigError(
            f"model {what} is no local folder, and the hub did not give it: {_first_line(error)} (cache: {cache}). "
            "Check the name, the network and, for a gated model, HF_TOKEN."
        ) from error
    if not (found / "config.json").is_file():
        raise ConfigError(f"model {what}: {found} has no config.json; the download is incomplete or it is no model.")
    return found


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
