"""Where compiled code is kept: one folder for everything it depends on, and not too many of them."""

import contextlib
import hashlib
import shutil
import sys
from pathlib import Path

import torch

from kvasir import compilation as compilation_package
from kvasir import envs, ops

MAX_FOLDERS = 16


def compile_folder(config_hash: str) -> Path:
    """The folder of a configuration's code; it need not exist."""
    return Path(envs.CACHE_DIR.value).expanduser() / "compile" / config_hash


def make_folder(folder: Path) -> None:
    """Makes a folder of `compile_folder`, and removes those that were used longest ago.

    Others who may write there could run code here, since inductor's cache is code: it is this user's only.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.touch()
    with contextlib.suppress(OSError):  # somebody else may tidy up, too
        by_age = sorted((f for f in folder.parent.iterdir() if f.is_dir()), key=lambda f: f.stat().st_mtime)
        for old in by_age[:-MAX_FOLDERS]:
            shutil.rmtree(old, ignore_errors=True)


def code_hash(model: torch.nn.Module) -> str:
    """Of the sources that a model's graph comes from: its own and its layers', the ops, and what compiles them."""
    files = {getattr(sys.modules[type(module).__module__], "__file__", None) for module in model.modules()}
    for package in (ops, compilation_package):
        files.update(str(path) for path in Path(package.__path__[0]).rglob("*.py"))
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(f for f in files if f):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()
