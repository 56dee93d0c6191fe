"""Composition root of the core ring: configuration -> EngineCore; `python -m kvasir.assembly.core FD` serves one."""

import sys
import time
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
from kvasir.scheduler import GrowthForecast, Scheduler, SchedulerSettings
from kvasir.structured.backend import Backend
from kvasir.structured.compiler import GrammarCompiler
from kvasir.structured.core import GrammarGate

WORKER_FACTORY = "kvasir.assembly.worker:make_worker"


class CoreSettings(msgspec.Struct):
    """The first frame of a core process. `epoch` tells its words from those of the core it replaces."""

    config: KvasirConfig
    epoch: int = 0

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, frame: bytes) -> "CoreSettings":
        return msgspec.json.decode(frame, type=cls)


def make_core(config: KvasirConfig, *, epoch: int = 0, executor: Executor | None = None) -> EngineCore:
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
        executor or _make_executor(config),
        make_scheduler,
        overlap=config.scheduler.async_scheduling,
        epoch=epoch,
        masks=grammars,
    )


def _make_grammar_backend(config: KvasirConfig) -> Backend:
    """Called when the first grammar comes; until then the core needs no tokenizer, and does not import one."""
    from kvasir.structured.guidance import GuidanceBackend
    from kvasir.structured.vocabulary import read_vocabulary
    from kvasir.tokenizer import get_tokenizer

    shape = load_model_shape(config.model.model_path, config.model.hf_overrides)
    tokenizer = get_tokenizer(config.model.tokenizer_path)
    return GuidanceBackend(read_vocabulary(tokenizer, shape.vocab_size, shape.eos_token_ids))


def _make_executor(config: KvasirConfig) -> Executor:
    def make_worker() -> LocalWorker:
        started = time.perf_counter()
        envs.let_waiting_threads_sleep()
        module, _, name = WORKER_FACTORY.partition(":")
        factory = getattr(import_module(module), name)
        return factory(config, started)

    threaded = config.device.device == "cpu" and config.scheduler.async_scheduling
    return UniProcExecutor(make_worker, threaded=threaded)


def main() -> int:
    def make(frame: bytes) -> EngineCore:
        settings = CoreSettings.decode(frame)
        return make_core(settings.config, epoch=settings.epoch)

    return run_core(int(sys.argv[1]), make)


if __name__ == "__main__":
    sys.exit(main())
