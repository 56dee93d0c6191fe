"""Worker: a device, a model on it, its memory, and a runner."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kvasir.attention.backend import AttentionBackend, AttentionNeed, GraphSupport
from kvasir.compilation import CompileAhead, CudagraphDispatcher, CudagraphMode, GraphPool
from kvasir.config.hf import ModelShape
from kvasir.errors import ConfigError
from kvasir.logger import get_logger
from kvasir.messages import PROTOCOL_VERSION, Ready, SchedulerOutput, TokenMasks
from kvasir.models.common.few_layers import few_layers
from kvasir.models.interface import TextModel
from kvasir.ops.on_paper import ShapesOnly
from kvasir.ops.target import target_of
from kvasir.platforms import Platform
from kvasir.platforms.early_triton import EarlyTriton
from kvasir.sampling import Sampler, SamplingState
from kvasir.utils.heartbeat import Phase
from kvasir.worker.forward import MIN_SHARED_ROWS, MIN_SHARED_TOKENS, DecodePass, PassParts, RaggedPass
from kvasir.worker.graphs import StepGraphs
from kvasir.worker.hook import MaskSink, StepHook
from kvasir.worker.memory import MemoryFigures, MemoryPlan, plan_kv_cache
from kvasir.worker.outputs import PendingStep
from kvasir.worker.profile import StepProfiler
from kvasir.worker.runner import ModelRunner
from kvasir.worker.states import RequestStates
from kvasir.worker.warmup import even_shares, synthetic_decode, synthetic_end, synthetic_plan

logger = get_logger(__name__)


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to know of the configuration, all of it resolved.

    Attributes:
        known_num_blocks: what a worker of the same configuration found to fit a moment ago, 0 = nobody has measured.
    """

    dtype: torch.dtype
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    gpu_memory_utilization: float
    kv_cache_bytes: int | None
    num_blocks_override: int | None
    max_logprobs: int
    max_model_len_is_auto: bool = False
    cpu_threads: int | None = None
    cudagraph_mode: CudagraphMode = CudagraphMode.NONE
    cudagraph_decode_sizes: tuple[int, ...] = ()
    cudagraph_mixed_sizes: tuple[int, ...] = ()
    known_num_blocks: int = 0
    profile_folder: Path | None = None


MAX_MIXED_ROWS = 128
"""Rows of a captured mixed step: each costs a few idle programs even when it is padding."""


@dataclass(frozen=True)
class ModelLoad:
    """A model whose parameters hold nothing yet, what fills them, and what compiles the filled model, if wanted."""

    model: TextModel
    fill: Callable[[], None]
    compile: Callable[[], None] | None = None


@dataclass(frozen=True)
class _Prepared:
    """`caches`: one tensor per layer, read at each step, so that the list can be filled anew."""

    backend: type[AttentionBackend]
    load: ModelLoad
    caches: list[torch.Tensor]
    graphs: StepGraphs | None


@dataclass
class StartupLog:
    """Seconds by phase; what `Ready` reports, so that the start-up log adds up. `beat` tells who watches the start."""

    phases: list[tuple[str, float]] = field(default_factory=list)
    since: float = field(default_factory=time.perf_counter)
    beat: Callable[[Phase | None], None] = lambda phase: None

    def mark(self, phase: str, then: Phase | None = None) -> None:
        """`phase` is done; what comes next has the deadline of `then`, if that is another one."""
        now = time.perf_counter()
        self.phases.append((phase, now - self.since))
        self.since = now
        self.beat(then)


class Worker:
    """Owns one device.

    Args:
        build: makes the model, given the attention backend class; how it is filled is the composition root's choice.
        hooks: rank 9 features, in the order they run.
        masks: applies the masks that come with `sample_tokens`.
        on_paper: makes the like of this worker on `platforms/paper.py`; what that launches is compiled ahead.
        early: see CompileAhead; this worker ends it.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        platform: Platform,
        shape: ModelShape,
        select_backend: Callable[[AttentionNeed], type[AttentionBackend]],
        build: Callable[[type[AttentionBackend]], ModelLoad],
        hooks: Sequence[StepHook] = (),
        log: StartupLog | None = None,
        masks: MaskSink | None = None,
        on_paper: "Callable[[], Worker] | None" = None,
        early: EarlyTriton | None = None,
    ):
        self._settings = settings
        self._platform = platform
        self._shape = shape
        self._select_backend = select_backend
        self._build = build
        self._hooks = hooks
        self._masks = masks
        self._on_paper = on_paper
        self._early = early
        self._log = log or StartupLog()
        self.device = torch.device(platform.device_type)
        self.runner: ModelRunner | None = None
        self.memory: MemoryPlan | None = None
        self._profiler = StepProfiler(settings.profile_folder, platform.device_type)
        self._calls: dict[str, Callable[..., Any]] = {
            "start_profile": self._profiler.start,
            "stop_profile": self._profiler.stop,
            "memory": lambda: self.memory and self.memory.table(),
            "idle": lambda: False,  # a piece of work for quiet moments; whether more is left
        }

    # -- start ----------------------------------------------------------------------------------------------

    def start(self) -> Ready:
        try:
            self._platform.open(self._settings.cpu_threads)
            self._log.mark("open device")
            with self._platform.stream():
                return self._start()
        finally:
            if self._early is not None:
                self._early.stop()

    def launch_all_kinds(self) -> None:
        """For who notes launches: all that steps need, by a model that is not filled."""
        with self._platform.stream(), ShapesOnly():
            need = self._need()
            prepared = self._prepare(need, self._select_backend(need))
            with few_layers(prepared.load.model):
                self._run_all_kinds()
                most = min(self._settings.max_num_seqs, self._settings.max_num_batched_tokens)
                self._run_decodes(prepared.backend.decode_kinds(need, most))

    def _need(self) -> AttentionNeed:
        settings, shape = self._settings, self._shape
        return AttentionNeed(
            device=self._platform.device_type,
            dtype=settings.dtype,
            head_size=shape.head_size,
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
            block_size=settings.block_size,
            sliding_window=any(w is not None for w in shape.layer_windows),
            capability=self._platform.capability,
        )

    def _prepare(self, need: AttentionNeed, backend: type[AttentionBackend]) -> "_Prepared":
        """Everything that runs steps, with a model that holds nothing yet and a cache of one block."""
        settings, shape = self._settings, self._shape
        load = self._build(backend)
        processors = () if self._masks is None else (self._masks,)
        sampling = SamplingState(settings.max_num_seqs, shape.vocab_size, self.device, processors)
        states = RequestStates(settings.max_num_seqs, settings.max_model_len, settings.block_size, sampling.uploads)
        caches = self._allocate_kv(backend, 1)  # one block: enough for synthetic steps, which all write there
        parts = PassParts(
            load.model, states, backend.make_builder(need), caches, sampling.uploads, self._dispatcher(backend),
            settings.max_num_batched_tokens,
        )  # fmt: skip
        self.runner, graphs = self._make_runner(parts, Sampler(sampling, settings.max_logprobs), backend)
        self._log.mark("build model")
        return _Prepared(backend, load, caches, graphs)

    def _start(self) -> Ready:
        need = self._need()
        backend = self._select_backend(need)
        self._log.mark("import kernels")
        ahead = CompileAhead(target_of(self.device), self._early)
        try:
            if self._on_paper is not None:
                ahead.start()  # a fork, which is cheap while there is no model
                ahead.queue(lambda: self._on_paper().launch_all_kinds())  # compiled beside us from the first step on
            self._log.mark("note kernels")
            prepared = self._prepare(need, backend)
            weights = _parameter_bytes(prepared.load.model)
            prepared.load.fill()
            self._log.mark("load weights", then=Phase.COMPILE)
            with few_layers(prepared.load.model):
                ahead.wait(meanwhile=self._run_largest)  # libraries load now what the largest step needs of theirs
            self._log.mark("wait for kernels")
        finally:
            ahead.stop()
        return self._run_first_steps(prepared, weights)

    def _run_first_steps(self, prepared: "_Prepared", weights: int) -> Ready:
        """What a start does once there are kernels and weights: memory is planned, steps are run and captured.

        Args:
            weights: their bytes.
        """
        settings = self._settings
        backend, load, graphs = prepared.backend, prepared.load, prepared.graphs
        if load.compile is not None:
            load.compile()
            self._log.mark("compile")
        activations = 0 if settings.known_num_blocks else self._measure_activations()
        self._log.mark("first step and memory")
        self.memory = self._plan_memory(weights, activations, self._bytes_per_block(backend))
        prepared.caches[:] = self._allocate_kv(backend, self.memory.num_blocks)
        logger.info("memory plan\n%s", self.memory.table())
        if self.memory.max_model_len < settings.max_model_len:
            logger.warning(
                "max_model_len is cut from %d to %d tokens: that is what the KV cache holds",
                settings.max_model_len,
                self.memory.max_model_len,
            )
        self._log.mark("KV cache", then=Phase.CAPTURE)
        self._warm_up()
        self._log.mark("warm-up")
        if graphs is not None:
            graphs.capture_first()
            self._calls["idle"] = self._idle_work(graphs)
            self._log.mark("capture graphs")
        return Ready(
            protocol_version=PROTOCOL_VERSION,
            num_blocks=self.memory.num_blocks,
            block_size=settings.block_size,
            max_model_len=self.memory.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            kv_bytes_per_block=self._bytes_per_block(backend),
            device=self._platform.name,
            attention_backend=backend.name,
            startup=self._log.phases,
        )

    def _dispatcher(self, backend: type[AttentionBackend]) -> CudagraphDispatcher:
        settings, mode = self._settings, self._settings.cudagraph_mode
        if backend.graph_support is GraphSupport.NEVER:
            mode = CudagraphMode.NONE
        elif backend.graph_support is GraphSupport.DECODE and mode is CudagraphMode.FULL:
            mode = CudagraphMode.FULL_DECODE_ONLY
        rows = min(MAX_MIXED_ROWS, settings.max_num_seqs)
        return CudagraphDispatcher(mode, settings.cudagraph_decode_sizes, settings.cudagraph_mixed_sizes, rows)

    def _make_runner(
        self, parts: PassParts, sampler: Sampler, backend: type[AttentionBackend]
    ) -> tuple[ModelRunner, StepGraphs | None]:
        """A backend that reads host numbers gets ragged steps only, and nothing is captured."""
        captures = parts.dispatcher.mode is not CudagraphMode.NONE
        pool = GraphPool() if captures else None
        ragged = RaggedPass(parts, pool)
        decode = None if backend.graph_support is GraphSupport.NEVER else DecodePass(parts, pool)
        graphs = StepGraphs(parts.states, sampler, decode, ragged, pool) if decode is not None and captures else None
        return ModelRunner(parts.model, parts.states, sampler, ragged, decode, graphs, self._hooks), graphs

    def _kv_shape(self, backend: type[AttentionBackend], num_blocks: int) -> tuple[int, ...]:
        return backend.kv_cache_shape(
            num_blocks, self._settings.block_size, self._shape.num_kv_heads, self._shape.head_size
        )

    def _bytes_per_block(self, backend: type[AttentionBackend]) -> int:
        cells = torch.Size(self._kv_shape(backend, 1)).numel()
        return cells * self._settings.dtype.itemsize * self._shape.num_layers

    def _allocate_kv(self, backend: type[AttentionBackend], num_blocks: int) -> list[torch.Tensor]:
        """One tensor per layer. Zeros, since a masked-out cell is still multiplied: 0 x NaN would be NaN."""
        shape = self._kv_shape(backend, num_blocks)
        return [self._platform.zeros(shape, self._settings.dtype) for _ in range(self._shape.num_layers)]

    def _idle_work(self, graphs: StepGraphs) -> Callable[[], bool]:
        def capture_one() -> bool:
            with self._platform.stream():
                return graphs.capture_next()

        return capture_one

    # -- memory ---------------------------------------------------------------------------------------------

    def _measure_activations(self) -> int:
        """Peak bytes of the largest step beyond what is allocated now (0 on a CPU, where it is not measured)."""
        return self._platform.peak_of(self._run_largest)

    def _run_largest(self) -> None:
        tokens, rows = self._settings.max_num_batched_tokens, self._settings.max_num_seqs
        self._run_synthetic(even_shares(tokens, rows))

    def _plan_memory(self, weights: int, activations: int, bytes_per_block: int) -> MemoryPlan:
        settings = self._settings
        free, total = self._platform.memory()
        others = max(0, total - free - weights)  # context, libraries, other processes: not ours to plan with
        limit = int(total * settings.gpu_memory_utilization) - others
        figures = MemoryFigures(total=total, free=free, weights=weights, activations=activations, limit=limit)
        return plan_kv_cache(
            figures,
            device=self.device.type,
            bytes_per_block=bytes_per_block,
            block_size=settings.block_size,
            max_model_len=settings.max_model_len,
            max_num_seqs=settings.max_num_seqs,
            utilization=settings.gpu_memory_utilization,
            kv_cache_bytes=settings.kv_cache_bytes,
            num_blocks_override=settings.known_num_blocks or settings.num_blocks_override,
            may_shrink=settings.max_model_len_is_auto,
        )

    # -- warm-up --------------------------------------------------------------------------------------------

    def _warm_up(self) -> None:
        """A prefill and a decode through the real step, so that the first request meets no first call."""
        self._run_all_kinds()

    def _run_all_kinds(self) -> None:
        """Steps that together launch every kernel in every variant: few rows and more, captured sizes and larger.

        First those whose kernels take longest to compile.
        """
        settings = self._settings
        long = MIN_SHARED_TOKENS + 2 * settings.block_size  # synthetic rows share all their blocks
        largest = max((0, *settings.cudagraph_mixed_sizes))
        for tokens, rows in ((MIN_SHARED_ROWS * long, MIN_SHARED_ROWS), (largest + 1, 1)):
            if largest < tokens <= settings.max_num_batched_tokens:  # a step that is not padded to a captured size
                self._run_synthetic(even_shares(tokens, min(rows, settings.max_num_seqs)))
                break
        if settings.max_num_seqs > 1 and largest + 3 <= settings.max_num_batched_tokens:
            self._run_synthetic([2, largest + 1])  # short prompts and long ones have kernels of their own
        for rows in reversed(self._platform.row_kinds):
            self._run_synthetic(
                even_shares(min(2 * rows, settings.max_num_batched_tokens), min(rows, settings.max_num_seqs))
            )

    def _run_decodes(self, kinds: Sequence[int]) -> None:
        """Decode steps of so many rows, without and with a prefix that all of them share."""
        long = MIN_SHARED_TOKENS + 2 * self._settings.block_size
        for rows in kinds:
            self._run_synthetic([1] * rows)
            self._run_synthetic([1] * max(rows, min(MIN_SHARED_ROWS, self._settings.max_num_seqs)), computed=long)

    def _run_synthetic(self, lens: list[int], computed: int = 0) -> None:
        settings = self._settings
        prefill = synthetic_plan(-3, lens, settings.max_model_len, settings.block_size, computed)
        for plan in (prefill, synthetic_decode(-2, prefill)):
            self.execute_model(plan)
            self.sample_tokens(plan.step_id).result()
        self.execute_model(synthetic_end(-1, prefill))

    # -- steps ----------------------------------------------------------------------------------------------

    def execute_model(self, plan: SchedulerOutput) -> None:
        assert self.runner is not None
        with self._platform.stream(), self._profiler.span("execute_model"):
            self.runner.execute_model(plan)

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> PendingStep:
        assert self.runner is not None
        if self._masks is not None:
            self._masks.take(masks)
        with self._platform.stream(), self._profiler.span("sample_tokens"):
            pending = self.runner.sample_tokens(step_id)
        self._profiler.step()
        return pending

    def call(self, name: str, args: dict[str, Any]) -> Any:
        function = self._calls.get(name)
        if function is None:
            raise ConfigError(f"the worker has no call {name!r}; it has: {', '.join(sorted(self._calls))}")
        return function(**args)

    def stop(self) -> None:
        self._profiler.close()
        for hook in self._hooks:
            hook.close()
        self.runner = None


def _parameter_bytes(model: torch.nn.Module) -> int:
    return sum({p.data_ptr(): p.numel() * p.itemsize for p in model.parameters()}.values())
