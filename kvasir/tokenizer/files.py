"""The files of a tokenizer on disk (or in the hub's cache), read as plain data."""

import json
from pathlib import Path
from typing import Any

from kvasir import envs
from kvasir.errors import ConfigError

PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "chat_templates/*.jinja",
    "additional_chat_templates/*.jinja",
)
MAX_JSON_BYTES = 256 << 20


def find_folder(path: str | Path, revision: str | None) -> Path:
    """A local folder, or the hub's cached copy of a repository's tokenizer files."""
    folder = Path(path).expanduser()
    if folder.is_file():
        return folder.parent
    if folder.is_dir():
        return folder
    if str(path).count("/") > 1 or str(path).startswith((".", "/", "~")):
        raise ConfigError(f"tokenizer folder {str(path)!r} does not exist.")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                str(path), revision=revision, allow_patterns=list(PATTERNS), local_files_only=envs.HUB_OFFLINE.flag
            )
        )
    except Exception as error:
        raise ConfigError(
            f"tokenizer {str(path)!r} is neither a local folder nor to be had from the hub: {error}"
        ) from error


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """The file as a dict; empty when it is not there."""
    file = folder / name
    if not file.is_file():
        return {}
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ConfigError(f"{file} has {file.stat().st_size} bytes, the bound is {MAX_JSON_BYTES}.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file} holds a {type(data).__name__}, an object is wanted.")
    return data


def read_templates(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """Chat templates by name. Files of their own win over the entry in tokenizer_config.json."""
    found: dict[str, str] = {}
    single = folder / "chat_template.jinja"
    if single.is_file():
        found["default"] = single.read_text(encoding="utf-8")
    for subfolder in ("chat_templates", "additional_chat_templates"):
        for file in sorted((folder / subfolder).glob("*.jinja")):
            found[file.stem] = file.read_text(encoding="utf-8")
    if found:
        return found
    entry = config.get("chat_template")
    if entry is None:
        entry = read_json(folder, "chat_template.json").get("chat_template")
    if isinstance(entry, str):
        return {"default": entry}
    if isinstance(entry, dict):
        return {str(name): str(text) for name, text in entry.items()}
    if isinstance(entry, list):
        return {str(item["name"]): str(item["template"]) for item in entry}
    return {}


def template_from_option(option: str) -> str:
    """`--chat-template`: a file's path, or the template itself (it has a brace or a line break)."""
    if "{" in option or "\n" in option:
        return option
    file = Path(option).expanduser()
    if not file.is_file():
        raise ConfigError(f"chat template {option!r} is neither a file nor a template (a template has braces).")
    return file.read_text(encoding="utf-8")
