"""Composition root of the front: options -> resolved configuration -> engine."""

from pathlib import Path
from typing import Any

from kvasir import envs
from kvasir.assembly.core import STANDBY, CoreSettings, make_core
from kvasir.assembly.facts import gather_facts
from kvasir.assembly.pairs import RequestPairs
from kvasir.assembly.resolve import NEUTRAL, Resolved, resolve
from kvasir.config import EngineArgs, KvasirConfig
from kvasir.config.hf import load_generation_config
from kvasir.engine.async_llm import AsyncLLM
from kvasir.engine.client import InProcessClient, ProcessClient
from kvasir.engine.input import InputProcessor
from kvasir.engine.llm_engine import LLMEngine
from kvasir.engine.supervisor.budget import RestartBudget
from kvasir.engine.supervisor.incidents import Incidents
from kvasir.engine.supervisor.supervisor import Supervisor
from kvasir.engine.supervisor.watch import Deadlines
from kvasir.logger import get_logger
from kvasir.messages import Ready
from kvasir.structured.front import StructuredStage
from kvasir.tokenizer import Tokenizer, get_tokenizer
from kvasir.utils.startup import StartupReport

logger = get_logger(__name__)

CORE_MODULE = "kvasir.assembly.core"
_CORE_PHASE = "engine core"


def make_llm_engine(args: EngineArgs) -> LLMEngine:
    """Everything in this process."""
    report = StartupReport.begin()
    resolved = resolve(args, usage="offline", facts=gather_facts(args))
    tokenizer = _tokenizer(resolved)
    report.mark("configuration and tokenizer")
    client = InProcessClient(make_core(resolved.config))
    report.mark(_CORE_PHASE)
    _log_start(report, client.ready)
    return LLMEngine(
        resolved.config,
        client,
        _input_processor(resolved, client.ready, tokenizer),
        tokenizer,
        default_sampling_params(resolved.config),
    )


def make_async_llm(args: EngineArgs) -> AsyncLLM:
    """The core in its own process; the tokenizer is read while it starts."""
    report = StartupReport.begin()
    resolved = resolve(args, usage="server", facts=gather_facts(args))
    report.mark("configuration")
    return start_async_llm(resolved, report)


def start_async_llm(resolved: Resolved, report: StartupReport | None = None) -> AsyncLLM:
    """The same, once the options are settled; `report` has what was done before."""
    report = report or StartupReport()
    supervisor = _make_supervisor(resolved.config)
    supervisor.launch()
    try:
        tokenizer = _tokenizer(resolved)
        report.mark("tokenizer (the core starts meanwhile)")
        ready = supervisor.wait_ready()
    except BaseException:
        supervisor.client.kill()
        raise
    report.mark(_CORE_PHASE)
    _log_start(report, ready)
    supervisor.facts = {"model": resolved.config.model.served_model_name[0], "device": ready.device}
    return AsyncLLM(
        resolved.config,
        supervisor,
        ready,
        _input_processor(resolved, ready, tokenizer),
        tokenizer,
        default_sampling_params(resolved.config),
    )


def _make_supervisor(config: KvasirConfig) -> Supervisor:
    options, num_slots = config.supervision, config.scheduler.max_num_seqs

    def settings(epoch: int, known: Ready | None) -> bytes:
        return CoreSettings(config, epoch, 0 if known is None else known.num_blocks).encode()

    return Supervisor(
        lambda: ProcessClient(CORE_MODULE, num_slots),
        settings,
        RestartBudget(options.max_core_restarts),
        Deadlines(options.engine_load_timeout, options.engine_compile_timeout, options.engine_iteration_timeout),
        Incidents(Path(options.incident_dir or envs.CACHE_DIR.value + "/incidents").expanduser()),
        (lambda: ProcessClient(CORE_MODULE, num_slots, STANDBY)) if options.standby_core else None,
    )


def default_sampling_params(config: KvasirConfig) -> dict[str, Any]:
    """What a request gets for the fields it leaves out: the model's file, then --override-generation-config."""
    folder = config.model.generation_config
    from_file = {} if folder == NEUTRAL else load_generation_config(folder)
    return {**from_file, **config.model.override_generation_config}


def _tokenizer(resolved: Resolved) -> Tokenizer | None:
    model = resolved.config.model
    if model.skip_tokenizer_init:
        return None
    return get_tokenizer(model.tokenizer_path, chat_template=model.chat_template)


def _input_processor(resolved: Resolved, ready: Ready, tokenizer: Tokenizer | None) -> InputProcessor:
    return InputProcessor(
        tokenizer,
        max_model_len=ready.max_model_len,
        vocab_size=resolved.shape.vocab_size,
        eos_token_ids=resolved.shape.eos_token_ids,
        default_params=default_sampling_params(resolved.config),
        max_logprobs=resolved.config.model.max_logprobs,
        seed=resolved.config.model.seed,
        stages=(RequestPairs(resolved.config), StructuredStage(resolved.config.structured.structured_outputs_config)),
    )


def _log_start(report: StartupReport, ready: Ready) -> None:
    inside: list[tuple[str, float]] = [(str(name), seconds) for name, seconds in ready.startup]
    logger.info("ready on %s\n%s", ready.device, report.table(inside, under=_CORE_PHASE))
