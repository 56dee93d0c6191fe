"""Composition root of the core ring: configuration -> EngineCore.

`python -m kvasir.assembly.core FD HEARTBEAT_FD [--standby]` serves one.
"""

import gc
import sys
import time
from collections.abc import Callable
from importlib import import_module

import msgspec

from kvasir import envs
from kvasir.config import KvasirConfig
from kvasir.config.hf import load_model_shape
from kvasir.engine.core import EngineCore
from kvasir.engine.process import run_core
from kvasir.executor import Executor, UniProcExecutor
from kvasir.executor.uniproc import LocalWorker
from kvasir.kv_cache import KVCacheManager, KVSpec
from kvasir.messages import Ready
from kvasir.platforms.early_cuda import open_beside_imports
from kvasir.platforms.early_triton import EarlyTriton
from kvasir.scheduler import GrowthForecast, Scheduler, SchedulerSettings
from kvasir.structured.backend import Backend
from kvasir.structured.compiler import GrammarCompiler
from kvasir.structured.core import GrammarGate
from kvasir.utils.heartbeat import Heartbeat, Phase

WORKER_FACTORY = "kvasir.assembly.worker:make_worker"
STANDBY = "--standby"
"""Argument of a core process that has to wait for its settings: it uses the time for its imports."""


class CoreSettings(msgspec.Struct):
    """The first frame of a core process.

    Attributes:
        epoch: tells its words from those of the core it replaces.
        known_num_blocks: the memory plan of that core, so that it is not measured again; 0 at the first start.
    """

    config: KvasirConfig
    epoch: int = 0
    known_num_blocks: int = 0

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, frame: bytes) -> "CoreSettings":
        return msgspec.json.decode(frame, type=cls)


def make_core(
    config: KvasirConfig,
    *,
    epoch: int = 0,
    executor: Executor | None = None,
    heartbeat: Heartbeat | None = None,
    known_num_blocks: int = 0,
) -> EngineCore:
    """Builds the engine core; `executor` replaces the real one in tests."""

    def make_scheduler(ready: Ready) -> Scheduler:
        spec = KVSpec(ready.num_blocks, ready.block_size, ready.kv_bytes_per_block)
        kv = KVCacheManager(spec, enable_prefix_caching=config.cache.enable_prefix_caching)
        settings = SchedulerSettings(
            max_num_seqs=ready.max_num_seqs,
            max_num_batched_tokens=config.scheduler.max_num_batched_tokens,
            max_model_len=ready.max_model_len,
            enable_chunked_prefill=config.scheduler.enable_chunked_prefill,
            policy=config.scheduler.scheduling_policy,
            max_queued_requests=config.scheduler.max_queued_requests,
            long_prefill_token_threshold=config.scheduler.long_prefill_token_threshold,
            overlap=config.scheduler.async_scheduling,
        )
        forecast = [GrowthForecast(kv)] if config.scheduler.forecast_kv_growth else []
        return Scheduler(settings, kv, extra_limiters=(grammars, *forecast), epoch=epoch)

    grammars = GrammarGate(GrammarCompiler(lambda: _make_grammar_backend(config)))
    return EngineCore(
        executor or _make_executor(config, heartbeat, known_num_blocks),
        make_scheduler,
        overlap=config.scheduler.async_scheduling,
        epoch=epoch,
        heartbeat=heartbeat,
        masks=grammars,
        step_times=config.observability.enable_step_times,
    )


def _make_grammar_backend(config: KvasirConfig) -> Backend:
    """Called when the first grammar comes; until then the core needs no tokenizer, and does not import one."""
    from kvasir.structured.guidance import GuidanceBackend
    from kvasir.structured.vocabulary import read_vocabulary
    from kvasir.tokenizer import get_tokenizer

    shape = load_model_shape(config.model.model_path, config.model.hf_overrides)
    tokenizer = get_tokenizer(config.model.tokenizer_path)
    return GuidanceBackend(read_vocabulary(tokenizer, shape.vocab_size, shape.eos_token_ids))


def _make_executor(config: KvasirConfig, heartbeat: Heartbeat | None, known_num_blocks: int) -> Executor:
    def beat(phase: Phase | None) -> None:
        if heartbeat is not None:
            heartbeat.beat(phase)

    def make_worker() -> LocalWorker:
        started = time.perf_counter()
        if config.device.device != "cuda":
            return _worker_factory()(config, started, beat, known_num_blocks)
        early = EarlyTriton.begin()
        try:
            open_beside_imports()
            return _worker_factory()(config, started, beat, known_num_blocks, early)
        except BaseException:
            if early is not None:
                early.stop()
            raise

    threaded = config.device.device == "cpu" and config.scheduler.async_scheduling
    return UniProcExecutor(make_worker, threaded=threaded)


def _worker_factory() -> Callable[..., LocalWorker]:
    """Imports the worker ring, which takes most of a start."""
    envs.let_waiting_threads_sleep()
    module, _, name = WORKER_FACTORY.partition(":")
    collects = gc.isenabled()
    gc.disable()  # nothing that an import makes is garbage, and looking for some takes a sixth of the time
    try:
        return getattr(import_module(module), name)
    finally:
        if collects:
            gc.enable()


def main() -> int:
    def make(frame: bytes, heartbeat: Heartbeat) -> EngineCore:
        settings = CoreSettings.decode(frame)
        return make_core(
            settings.config, epoch=settings.epoch, heartbeat=heartbeat, known_num_blocks=settings.known_num_blocks
        )

    if STANDBY in sys.argv:
        _worker_factory()
    return run_core(int(sys.argv[1]), int(sys.argv[2]), make)


if __name__ == "__main__":
    sys.exit(main())
