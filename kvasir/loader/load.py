"""`load_model`: class, empty parameters, weights, repacking; in this order."""

import time
from pathlib import Path

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


def load_model(
    shape: ModelShape,
    build: ModelBuild,
    path: str | Path | None = None,
    load_format: str = "auto",
    seed: int = 0,
    use_tqdm: bool = True,
    num_threads: int = 0,
) -> nn.Module:
    """A model of `shape`, filled and in inference mode.

    Args:
        path: the folder with the weights; not needed for "dummy".
        load_format: "auto" and "safetensors" read files, "dummy" draws random weights from `seed`.

    Raises:
        ConfigError: unknown architecture or format, weights that are missing or do not fit, too little memory.
    """
    if load_format not in LOAD_FORMATS:
        raise ConfigError(f"load_format {load_format!r} is not one of {', '.join(LOAD_FORMATS)}.")
    if load_format != "dummy" and path is None:
        raise ConfigError(f"load_format {load_format!r} needs the model's folder.")
    model_class = ModelRegistry.resolve_model_cls(shape.architectures)
    files = [] if load_format == "dummy" else weight_files(Path(path))
    start = time.perf_counter()
    try:
        model = model_class(shape, build).eval().requires_grad_(False)
        if load_format == "dummy":
            fill_dummy(model, seed)
        else:
            fill_from_files(model, files, model_class.WEIGHTS, shape.tie_word_embeddings, use_tqdm, num_threads)
        with torch.no_grad():
            for module in model.modules():
                if hasattr(module, "finish_load"):
                    module.finish_load()
    except torch.OutOfMemoryError as error:
        raise ConfigError(f"The model's weights do not fit on {build.device}: {_first_line(error)}.") from error
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    source = "drawn at random" if load_format == "dummy" else f"read from {path}"
    logger.info("weights: %.2f GiB %s in %.2f s", size / _GIB, source, time.perf_counter() - start)
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
