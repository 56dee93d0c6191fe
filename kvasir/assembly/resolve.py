"""EngineArgs -> KvasirConfig: finds the model, asks each rule once, checks the pairs, freezes."""

from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Literal

from kvasir.assembly.facts import Facts, gather_facts
from kvasir.assembly.pairs import check_pairs
from kvasir.assembly.rules import compilation, machine, memory, model, scheduler
from kvasir.assembly.rules.decision import Decision
from kvasir.config import (
    AUTO,
    DEMO_MODEL,
    AttentionConfig,
    CacheConfig,
    CompilationConfig,
    DeviceConfig,
    EngineArgs,
    KvasirConfig,
    LoadConfig,
    ModelConfig,
    ObservabilityConfig,
    ParallelConfig,
    SchedulerConfig,
    StructuredConfig,
    SupervisionConfig,
    compile_json,
)
from kvasir.config.hf import ModelShape, load_model_shape
from kvasir.config.hub import resolve_model_path
from kvasir.config.option import options_of
from kvasir.errors import ConfigError
from kvasir.logger import get_logger

Usage = Literal["offline", "server"]
NEUTRAL = "none"
"""generation_config when no file gives defaults."""

_log = get_logger(__name__)


@dataclass(frozen=True)
class Resolved:
    """All that the composition roots need to build an engine.

    Attributes:
        config: every option, nothing `auto`; also holds both paths.
        shape: the model's sizes.
        model_path: folder with config.json and the weights.
        decisions: what the rules decided, in order.
    """

    config: KvasirConfig
    shape: ModelShape
    model_path: Path
    decisions: tuple[Decision, ...]


def resolve(args: EngineArgs, *, usage: Usage = "offline", facts: Facts | None = None) -> Resolved:
    """Settles everything that may be settled before a worker exists, and logs each decision in a line.

    Raises:
        ConfigError: no such model, a value this model or machine cannot have, or two options that do not go together.
    """
    facts = facts or gather_facts(args)
    path = find_model(args.model, args.revision, args.download_dir)
    shape = load_model_shape(path, args.hf_overrides or None)
    machine.check_data_parallel(args.data_parallel_size, facts, offline=usage == "offline")
    decisions = _decide(args, shape, facts, offline=usage == "offline")
    value = {decision.name: decision.value for decision in decisions}
    config = KvasirConfig(
        model=replace(
            args.section(ModelConfig),
            dtype=value["dtype"],
            max_model_len=value["max_model_len"],
            max_model_len_is_auto=args.max_model_len == AUTO,
            served_model_name=value["served_model_name"],
            generation_config=_generation_folder(args.generation_config, path),
            model_path=str(path),
            tokenizer_path=str(_find_tokenizer(args, path)),
        ),
        cache=replace(
            args.section(CacheConfig), block_size=value["block_size"], kv_cache_memory=value["kv_cache_memory"]
        ),
        scheduler=replace(
            args.section(SchedulerConfig),
            max_num_seqs=value["max_num_seqs"],
            max_num_batched_tokens=value["max_num_batched_tokens"],
            max_queued_requests=value["max_queued_requests"],
            max_queued_tokens=value["max_queued_tokens"],
            async_scheduling=value["async_scheduling"],
        ),
        parallel=replace(
            args.section(ParallelConfig), distributed_executor_backend=value["distributed_executor_backend"]
        ),
        device=replace(args.section(DeviceConfig), device=value["device"], cpu_threads=value["cpu_threads"]),
        load=replace(args.section(LoadConfig), load_format=value["load_format"]),
        attention=args.section(AttentionConfig),
        compilation=replace(
            args.section(CompilationConfig),
            **{name: value[name] for name in options_of(CompilationConfig)},
        ),
        observability=args.section(ObservabilityConfig),
        supervision=replace(
            args.section(SupervisionConfig), engine_iteration_timeout=value["engine_iteration_timeout"]
        ),
        structured=args.section(StructuredConfig),
    )
    check_pairs(config)
    for decision in decisions:
        _log.info("%s", decision)
    return Resolved(config, shape, path, decisions)


def find_model(name: str, revision: str | None = None, download_dir: str | None = None) -> Path:
    """The folder of a model; the bundled one answers to its own name, unless a folder of that name is right here."""
    if name == DEMO_MODEL and not Path(name).is_dir():
        return Path(str(files("kvasir"))) / "assets" / DEMO_MODEL
    return resolve_model_path(name, revision, download_dir)


def _decide(args: EngineArgs, shape: ModelShape, facts: Facts, *, offline: bool) -> tuple[Decision, ...]:
    dtype = model.dtype(args.dtype, shape, facts)
    length = model.max_model_len(args.max_model_len, shape)
    block = memory.block_size(args.block_size)
    seqs = scheduler.max_num_seqs(args.max_num_seqs, facts)
    if args.max_num_seqs == AUTO and args.max_num_batched_tokens != AUTO and args.max_num_batched_tokens < seqs.value:
        seqs = Decision("max_num_seqs", args.max_num_batched_tokens, "no more than max_num_batched_tokens")
    budget = scheduler.max_num_batched_tokens(
        args.max_num_batched_tokens,
        num_seqs=seqs.value,
        model_len=length.value,
        chunked_prefill=args.enable_chunked_prefill,
        offline=offline,
        facts=facts,
    )
    details = args.compilation_config
    level = compilation.optimization_level(
        args.optimization_level, "optimization_level" in args.given, details, args.enforce_eager
    )
    asked = {
        name: compilation.from_json(name, getattr(args, name), details, EngineArgs.options()[name].read)
        for name in compile_json.GRAPH_FIELDS
    }
    graphs = compilation.cudagraph_mode(asked["cudagraph_mode"], args.enforce_eager, facts)
    queue = scheduler.max_queued_requests(args.max_queued_requests, num_seqs=seqs.value, offline=offline)
    return (
        machine.device(facts),
        machine.cpu_threads(args.cpu_threads, facts, args.data_parallel_size),
        machine.executor(args.distributed_executor_backend, args.tensor_parallel_size * args.pipeline_parallel_size),
        machine.load_format(args.load_format),
        dtype,
        length,
        model.served_model_name(args.served_model_name, args.model),
        block,
        seqs,
        budget,
        queue,
        scheduler.max_queued_tokens(args.max_queued_tokens, num_queued=queue.value, model_len=length.value),
        scheduler.async_scheduling(args.async_scheduling),
        level,
        compilation.compilation_config(details, level.value),
        graphs,
        compilation.cudagraph_capture_sizes(asked["cudagraph_capture_sizes"], graphs.value, seqs.value),
        compilation.cudagraph_mixed_sizes(args.cudagraph_mixed_sizes, graphs.value, budget.value),
        machine.engine_iteration_timeout(args.engine_iteration_timeout, facts),
        memory.kv_cache_memory(
            args.kv_cache_memory,
            shape=shape,
            dtype=dtype.value,
            block_size=block.value,
            model_len=length.value,
            num_seqs=seqs.value,
            facts=facts,
            num_cores=args.data_parallel_size,
        ),
    )


def _generation_folder(asked: str, model_path: Path) -> str:
    if asked in (NEUTRAL, "vllm"):
        return NEUTRAL
    folder = model_path if asked == AUTO else Path(asked).expanduser()
    if (folder / "generation_config.json").is_file():
        return str(folder)
    if asked == AUTO:
        return NEUTRAL
    raise ConfigError(
        f"generation_config is {asked!r}: that folder has no generation_config.json. Give a folder that has one, "
        "or none.",
        param="generation_config",
    )


def _find_tokenizer(args: EngineArgs, model_path: Path) -> Path:
    if args.tokenizer is None or args.skip_tokenizer_init:
        return model_path
    return find_model(args.tokenizer, args.tokenizer_revision, args.download_dir)
