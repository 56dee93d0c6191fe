"""Composition root of the worker ring: the only torch-importing module of this package.

Made by dotted name (`kvasir.assembly.worker:make_worker`), so that the core ring never imports torch.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from kvasir.attention.backend import AttentionBackend, AttentionNeed
from kvasir.attention.selector import get_attn_backend
from kvasir.compilation import CudagraphMode
from kvasir.config import KvasirConfig
from kvasir.config.hf import load_model_shape
from kvasir.layers.attention import Attention
from kvasir.loader.load import build_model, check_source, fill_model
from kvasir.logger import get_logger
from kvasir.models.interface import ModelBuild
from kvasir.platforms import Platform, detect
from kvasir.platforms.early_triton import EarlyTriton
from kvasir.platforms.paper import PaperPlatform
from kvasir.structured.worker import TokenMaskProcessor
from kvasir.utils.heartbeat import Phase
from kvasir.worker.worker import ModelLoad, StartupLog, Worker, WorkerSettings

logger = get_logger(__name__)


def make_worker(
    config: KvasirConfig,
    started: float,
    beat: Callable[[Phase | None], None] = lambda phase: None,
    known_num_blocks: int = 0,
    early: EarlyTriton | None = None,
    platform: Platform | None = None,
) -> Worker:
    """Wires a worker from the resolved configuration.

    Args:
        started: when importing this module began.
        beat: told of each piece of progress while the worker starts.
        known_num_blocks: see WorkerSettings.
        early: see Worker.
        platform: in place of the machine's own; choices stay those for `config.device.device`.
    """
    log = StartupLog(since=started, beat=beat)
    log.mark("import torch", then=Phase.LOAD)
    shape = load_model_shape(config.model.model_path, config.model.hf_overrides)
    dtype = getattr(torch, config.model.dtype)
    say = logger.info if platform is None else logger.debug  # on paper the same choices are made once more
    platform = platform or detect(config.device.device)
    device = torch.device(platform.device_type)

    def select_backend(need: AttentionNeed) -> type[AttentionBackend]:
        need = replace(need, device=config.device.device)
        backend, reasons = get_attn_backend(need, config.attention.attention_backend)
        say("attention backend: %s (%s)", backend.name, "; ".join(reasons))
        return backend

    load_format, path = config.load.load_format, Path(config.model.model_path)
    check_source(path, load_format)

    def build(backend: type[AttentionBackend]) -> ModelLoad:
        parts = ModelBuild(
            dtype=dtype, device=device, attention_backend=backend, max_model_len=config.model.max_model_len
        )
        model = build_model(shape, parts)
        compile_it = None
        if config.compilation.optimization_level:
            about = {"device": platform.name, "attention": backend.name}
            compile_it = _compiler(
                config, model, device, lambda code: config.compute_hash(shape, code=code, **about), beat
            )
        seed = config.model.seed
        return ModelLoad(
            model,
            lambda: fill_model(model, shape, parts, path, load_format, seed, progress=lambda: beat(None)),
            compile_it,
        )

    def on_paper() -> Worker:
        return make_worker(config, time.perf_counter(), platform=PaperPlatform(platform.capability))

    settings = WorkerSettings(
        dtype=dtype,
        max_model_len=config.model.max_model_len,
        max_num_seqs=config.scheduler.max_num_seqs,
        max_num_batched_tokens=config.scheduler.max_num_batched_tokens,
        block_size=config.cache.block_size,
        gpu_memory_utilization=config.cache.gpu_memory_utilization,
        kv_cache_bytes=config.cache.kv_cache_memory,
        num_blocks_override=config.cache.num_gpu_blocks_override,
        max_logprobs=config.model.max_logprobs,
        max_model_len_is_auto=config.model.max_model_len_is_auto,
        cpu_threads=config.device.cpu_threads,
        cudagraph_mode=CudagraphMode(config.compilation.cudagraph_mode),
        cudagraph_decode_sizes=tuple(config.compilation.cudagraph_capture_sizes),
        cudagraph_mixed_sizes=tuple(config.compilation.cudagraph_mixed_sizes),
        known_num_blocks=known_num_blocks,
        profile_folder=Path(config.observability.profile).expanduser() if config.observability.profile else None,
    )
    masks = TokenMaskProcessor(device)
    return Worker(
        settings, platform, shape, select_backend, build, log=log, masks=masks, on_paper=on_paper, early=early
    )


def _compiler(
    config: KvasirConfig,
    model: torch.nn.Module,
    device: torch.device,
    hash_of: Callable[[str], str],
    beat: Callable[[Phase | None], None],
) -> Callable[[], None]:
    """What compiles a filled model. The compiler is imported when it is called, not before."""

    def compile_it() -> None:
        try:
            from kvasir.compilation.cache import code_hash, compile_folder
            from kvasir.compilation.forward import CompileSettings, compile_forward
        except ImportError as error:  # another torch than those we know
            logger.warning("not compiled, the model runs as it is: %s", error)
            return
        how = config.compilation.compilation_config
        settings = CompileSettings(
            backend=how["backend"],
            opaque_ops=how["opaque_ops"],
            passes_off=how["passes_off"],
            inductor_options=how["inductor_options"],
            cache=compile_folder(hash_of(code_hash(model))),
            dump=Path(how["dump"]).expanduser() if how["dump"] else None,
        )
        attention = [m for m in model.modules() if isinstance(m, Attention)]
        compile_forward(model, attention, device, settings, progress=lambda: beat(None))

    return compile_it
