"""The weight files of a model folder: which they are, and what tensors they hold. Headers only, no data is read."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kvasir.errors import ConfigError

_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a checkpoint. `dtype` is safetensors' word for it, e.g. "BF16"."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """The file, memory-mapped.

    Raises:
        ConfigError: it is not there, or broken, e.g. cut off by a download that did not finish.
    """
    try:
        with safe_open(file, framework="pt", device="cpu") as handle:
            yield handle
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file} cannot be read as safetensors: {error}. Download it again.") from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of `folder`, by its index when it has one.

    Raises:
        ConfigError: there are none, some are missing, or the weights are pickles.
    """
    index = folder / _INDEX
    if index.is_file():
        return _indexed(index)
    single = folder / "model.safetensors"
    if single.is_file():
        return [single]
    # Some repositories add a second copy of the weights under this name, with other tensor names.
    found = sorted(f for f in folder.glob("*.safetensors") if not f.name.startswith(("consolidated", "adapter_")))
    if found:
        return found
    pickles = sorted(f.name for pattern in _PICKLES for f in folder.glob(pattern))
    if pickles:
        raise ConfigError(
            f"{folder} holds its weights as pickles ({pickles[0]}), which can run code when opened and are never "
            "loaded; convert the checkpoint to safetensors."
        )
    raise ConfigError(f"{folder} holds no *.safetensors weights; use load_format 'dummy' for random ones.")


def _indexed(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [index.parent / name for name in names if Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{index} cannot be read: it must be JSON with a weight_map ({error!r}).") from error
    if len(files) != len(names) or not files:
        raise ConfigError(f"{index}: weight_map must name files that lie beside it.")
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ConfigError(f"{index} lists weight files that are not there: {', '.join(missing)}.")
    return files


def stored_tensors(files: list[Path]) -> list[StoredTensor]:
    """Every tensor of `files`, in file order."""
    tensors = []
    for file in files:
        with open_weights(file) as handle:
            for name in handle.keys():
                header = handle.get_slice(name)
                tensors.append(StoredTensor(file, name, tuple(header.get_shape()), header.get_dtype()))
    return tensors
