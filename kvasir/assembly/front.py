"""Composition root of the front: options -> resolved configuration -> engine."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kvasir import envs
from kvasir.assembly.core import STANDBY, CoreSettings, make_core
from kvasir.assembly.facts import gather_facts
from kvasir.assembly.pairs import RequestPairs
from kvasir.assembly.resolve import NEUTRAL, Resolved, resolve
from kvasir.config import EngineArgs, KvasirConfig
from kvasir.config.hf import ModelShape, load_generation_config, load_model_shape
from kvasir.engine.async_llm import AsyncLLM, admission_limits
from kvasir.engine.client import InProcessClient, ProcessClient
from kvasir.engine.input import InputProcessor
from kvasir.engine.llm_engine import LLMEngine
from kvasir.engine.remote_core import RemoteCore
from kvasir.engine.supervised_core import SupervisedCore
from kvasir.engine.supervisor.budget import RestartBudget
from kvasir.engine.supervisor.incidents import Incidents
from kvasir.engine.supervisor.supervisor import Supervisor
from kvasir.engine.supervisor.watch import Deadlines
from kvasir.logger import get_logger
from kvasir.messages import Ready
from kvasir.structured.front import StructuredStage
from kvasir.tokenizer import Tokenizer, get_tokenizer
from kvasir.utils.cards import usable_cards
from kvasir.utils.startup import StartupReport

logger = get_logger(__name__)

CORE_MODULE = "kvasir.assembly.core"
_CORE_PHASE = "engine core"


def make_llm_engine(args: EngineArgs) -> LLMEngine:
    """Everything in this process."""
    report = StartupReport.begin()
    resolved = resolve(args, usage="offline", facts=gather_facts(args))
    tokenizer = load_tokenizer(resolved.config)
    report.mark("configuration and tokenizer")
    client = InProcessClient(make_core(resolved.config))
    report.mark(_CORE_PHASE)
    _log_start(report, client.ready)
    return LLMEngine(
        resolved.config,
        client,
        _input_processor(resolved.config, resolved.shape, client.ready, tokenizer),
        tokenizer,
        default_sampling_params(resolved.config),
    )


def make_async_llm(args: EngineArgs) -> AsyncLLM:
    """The cores in processes of their own; the tokenizer is read while they start."""
    report = StartupReport.begin()
    resolved = resolve(args, usage="server", facts=gather_facts(args))
    report.mark("configuration")
    return start_async_llm(resolved, report)


def start_async_llm(resolved: Resolved, report: StartupReport | None = None) -> AsyncLLM:
    """The same, once the options are settled; `report` has what was done before."""
    report = report or StartupReport()
    with starting_cores(resolved.config) as cores:
        tokenizer = load_tokenizer(resolved.config)
        report.mark("tokenizer (the core starts meanwhile)")
        ready = wait_for_cores(cores, resolved.config, report)
    return AsyncLLM(
        resolved.config,
        cores,
        ready,
        _input_processor(resolved.config, resolved.shape, ready, tokenizer),
        tokenizer,
        default_sampling_params(resolved.config),
    )


def make_front(
    config: KvasirConfig, ready: Ready, core: RemoteCore, tokenizer: Tokenizer | None, count: int
) -> AsyncLLM:
    """The engine of one of `count` front processes; the real cores are with the hub."""
    shape = load_model_shape(Path(config.model.model_path), config.model.hf_overrides or None)
    return AsyncLLM(
        config,
        [core],
        ready,
        _input_processor(config, shape, ready, tokenizer, core.client_index),
        tokenizer,
        default_sampling_params(config),
        admission_limits(config, config.parallel.data_parallel_size, count),
    )


@contextmanager
def starting_cores(config: KvasirConfig) -> Iterator[list[SupervisedCore]]:
    """Launches every core; they are ended if what is done meanwhile fails."""
    cores = [SupervisedCore(_make_supervisor(config, i), i) for i in range(config.parallel.data_parallel_size)]
    launched: list[SupervisedCore] = []
    try:
        for core in cores:
            core.supervisor.launch()
            launched.append(core)
        yield cores
    except BaseException:
        for core in launched:
            core.client.kill()
        raise


def wait_for_cores(cores: Sequence[SupervisedCore], config: KvasirConfig, report: StartupReport) -> Ready:
    """Blocks until all are ready; returns what the least of them can do."""
    ready = [core.supervisor.wait_ready() for core in cores]
    report.mark(_CORE_PHASE)
    for core, one in zip(cores, ready, strict=True):
        core.supervisor.facts = {"model": config.model.served_model_name[0], "device": one.device, "core": core.index}
    _log_start(report, ready[0], len(cores))
    return min(ready, key=lambda one: one.max_model_len)


def _make_supervisor(config: KvasirConfig, index: int = 0) -> Supervisor:
    options, num_slots = config.supervision, config.scheduler.max_num_seqs
    environment = _environment(config, index)

    def settings(epoch: int, known: Ready | None) -> bytes:
        return CoreSettings(config, epoch, 0 if known is None else known.num_blocks).encode()

    return Supervisor(
        lambda: ProcessClient(CORE_MODULE, num_slots, environment=environment),
        settings,
        RestartBudget(options.max_core_restarts),
        Deadlines(options.engine_load_timeout, options.engine_compile_timeout, options.engine_iteration_timeout),
        Incidents(Path(options.incident_dir or envs.CACHE_DIR.value + "/incidents").expanduser()),
        (lambda: ProcessClient(CORE_MODULE, num_slots, STANDBY, environment=environment))
        if options.standby_core
        else None,
    )


def _environment(config: KvasirConfig, index: int) -> dict[str, str]:
    """Of several cores each sees its own card only, and calls it the first."""
    if config.parallel.data_parallel_size == 1 or config.device.device != "cuda":
        return {}
    return {envs.VISIBLE_CARDS.name: usable_cards()[index]}


def default_sampling_params(config: KvasirConfig) -> dict[str, Any]:
    """What a request gets for the fields it leaves out: the model's file, then --override-generation-config."""
    folder = config.model.generation_config
    from_file = {} if folder == NEUTRAL else load_generation_config(folder)
    return {**from_file, **config.model.override_generation_config}


def load_tokenizer(config: KvasirConfig) -> Tokenizer | None:
    """None when the options want none."""
    model = config.model
    if model.skip_tokenizer_init:
        return None
    return get_tokenizer(model.tokenizer_path, chat_template=model.chat_template)


def _input_processor(
    config: KvasirConfig, shape: ModelShape, ready: Ready, tokenizer: Tokenizer | None, index: int = 0
) -> InputProcessor:
    """`index`: of the front; requests without a seed must not get the same ones in each of several."""
    seed = config.model.seed
    return InputProcessor(
        tokenizer,
        max_model_len=ready.max_model_len,
        vocab_size=shape.vocab_size,
        eos_token_ids=shape.eos_token_ids,
        default_params=default_sampling_params(config),
        max_logprobs=config.model.max_logprobs,
        seed=None if seed is None else seed + (index << 32),
        stages=(RequestPairs(config), StructuredStage(config.structured.structured_outputs_config)),
    )


def _log_start(report: StartupReport, ready: Ready, num_cores: int = 1) -> None:
    inside: list[tuple[str, float]] = [(str(name), seconds) for name, seconds in ready.startup]
    where = ready.device if num_cores == 1 else f"{num_cores} cores, the first on {ready.device}"
    logger.info("ready on %s\n%s", where, report.table(inside, under=_CORE_PHASE))
