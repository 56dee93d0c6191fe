"""`build_model`: class, empty parameters; `fill_model`: weights, repacking."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kvasir.config.hf import ModelShape
from kvasir.errors import ConfigError
from kvasir.loader.checkpoint import weight_files
from kvasir.loader.dummy import fill_dummy
from kvasir.loader.fill import fill_from_files
from kvasir.logger import get_logger
from kvasir.models.interface import ModelBuild
from kvasir.models.registry import ModelRegistry

logger = get_logger(__name__)
LOAD_FORMATS = ("auto", "safetensors", "dummy")
_GIB = 1 << 30


def build_model(shape: ModelShape, build: ModelBuild) -> nn.Module:
    """A model of `shape` in inference mode; its parameters hold nothing yet.

    Raises:
        ConfigError: unknown architecture, or too little memory.
    """
    model_class = ModelRegistry.resolve_model_cls(shape.architectures)
    try:
        return model_class(shape, build).eval().requires_grad_(False)
    except torch.OutOfMemoryError as error:
        raise _too_large(build, error) from error


def fill_model(
    model: nn.Module,
    shape: ModelShape,
    build: ModelBuild,
    path: str | Path | None = None,
    load_format: str = "auto",
    seed: int = 0,
    use_tqdm: bool = True,
    num_threads: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Fills what `build_model` made, and repacks it.

    Args:
        path: the folder with the weights; not needed for "dummy".
        load_format: "auto" and "safetensors" read files, "dummy" draws random weights from `seed`.
        progress: called for every piece of the files that is in place.

    Raises:
        ConfigError: unknown format, weights that are missing or do not fit, too little memory.
    """
    start = time.perf_counter()
    try:
        if load_format == "dummy":
            fill_dummy(model, seed)
        else:
            files = check_source(path, load_format)
            tied = shape.tie_word_embeddings
            fill_from_files(model, files, model.WEIGHTS, tied, use_tqdm, num_threads, progress)
        with torch.no_grad():
            for module in model.modules():
                if hasattr(module, "finish_load"):
                    module.finish_load()
    except torch.OutOfMemoryError as error:
        raise _too_large(build, error) from error
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    source = "drawn at random" if load_format == "dummy" else f"read from {path}"
    logger.info("weights: %.2f GiB %s in %.2f s", size / _GIB, source, time.perf_counter() - start)


def check_source(path: str | Path | None, load_format: str) -> list[Path]:
    """The weight files. Raises ConfigError before anything costs time: unknown format, or no (safe) weights there."""
    if load_format not in LOAD_FORMATS:
        raise ConfigError(f"load_format {load_format!r} is not one of {', '.join(LOAD_FORMATS)}.")
    if load_format == "dummy":
        return []
    if path is None:
        raise ConfigError(f"load_format {load_format!r} needs the model's folder.")
    return weight_files(Path(path))


def load_model(
    shape: ModelShape, build: ModelBuild, path: str | Path | None = None, load_format: str = "auto", **options: Any
) -> nn.Module:
    """`build_model`, then `fill_model`, which takes the `options`."""
    check_source(path, load_format)
    model = build_model(shape, build)
    fill_model(model, shape, build, path, load_format, **options)
    return model


def _too_large(build: ModelBuild, error: Exception) -> ConfigError:
    return ConfigError(f"The model's weights do not fit on {build.device}: {_first_line(error)}.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
