"""Composition root of the worker ring: the only torch-importing module of this package.

Made by dotted name (`kvasir.assembly.worker:make_worker`), so that the core ring never imports torch.
"""

from pathlib import Path

import torch

from kvasir.attention.backend import AttentionBackend, AttentionNeed
from kvasir.attention.selector import get_attn_backend
from kvasir.compilation import CudagraphMode
from kvasir.config import KvasirConfig
from kvasir.config.hf import load_model_shape
from kvasir.loader.load import load_model
from kvasir.logger import get_logger
from kvasir.models.interface import ModelBuild, TextModel
from kvasir.platforms import detect
from kvasir.worker.worker import StartupLog, Worker, WorkerSettings

logger = get_logger(__name__)


def make_worker(config: KvasirConfig, started: float) -> Worker:
    """Wires a worker from the resolved configuration; `started` is when importing this module began."""
    log = StartupLog(since=started)
    log.mark("import torch and kernels")
    shape = load_model_shape(config.model.model_path, config.model.hf_overrides)
    dtype = getattr(torch, config.model.dtype)
    platform = detect(config.device.device)
    device = torch.device(platform.device_type)

    def select_backend(need: AttentionNeed) -> type[AttentionBackend]:
        backend, reasons = get_attn_backend(need, config.attention.attention_backend)
        logger.info("attention backend: %s (%s)", backend.name, "; ".join(reasons))
        return backend

    def load(backend: type[AttentionBackend]) -> TextModel:
        build = ModelBuild(
            dtype=dtype, device=device, attention_backend=backend, max_model_len=config.model.max_model_len
        )
        return load_model(
            shape,
            build,
            load_format=config.load.load_format,
            path=Path(config.model.model_path),
            seed=config.model.seed,
        )

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
    )
    return Worker(settings, platform, shape, select_backend, load, log=log)
