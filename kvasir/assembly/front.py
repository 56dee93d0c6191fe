"""Composition root of the front: options -> resolved configuration -> engine."""

from typing import Any

from kvasir.assembly.core import CoreSettings, make_core
from kvasir.assembly.facts import gather_facts
from kvasir.assembly.pairs import RequestPairs
from kvasir.assembly.resolve import NEUTRAL, Resolved, resolve
from kvasir.config import EngineArgs, KvasirConfig
from kvasir.config.hf import load_generation_config
from kvasir.engine.async_llm import AsyncLLM
from kvasir.engine.client import InProcessClient, ProcessClient
from kvasir.engine.input import InputProcessor
from kvasir.engine.llm_engine import LLMEngine
from kvasir.engine.restart import Restart
from kvasir.logger import get_logger
from kvasir.messages import Ready
from kvasir.structured.front import StructuredStage
from kvasir.tokenizer import Tokenizer, get_tokenizer
from kvasir.utils.startup import StartupReport

logger = get_logger(__name__)

CORE_MODULE = "kvasir.assembly.core"
START_TIMEOUT_S = 1800.0
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

    def start_core(epoch: int) -> ProcessClient:
        return ProcessClient(CORE_MODULE, CoreSettings(resolved.config, epoch).encode())

    client = start_core(epoch=0)
    try:
        tokenizer = _tokenizer(resolved)
        report.mark("tokenizer (the core starts meanwhile)")
        ready = client.wait_ready(START_TIMEOUT_S)
    except BaseException:
        client.kill()
        raise
    report.mark(_CORE_PHASE)
    _log_start(report, ready)
    return AsyncLLM(
        resolved.config,
        client,
        ready,
        _input_processor(resolved, ready, tokenizer),
        tokenizer,
        default_sampling_params(resolved.config),
        Restart(start_core, resolved.config.supervision.max_core_restarts, START_TIMEOUT_S),
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
