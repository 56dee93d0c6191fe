"""What a model will need, and how it is started. Both block, and are called in threads."""

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from kvasir.config.units import format_bytes
from kvasir.entrypoints.router.catalog import ModelSpec

if TYPE_CHECKING:
    from kvasir.assembly.resolve import Resolved
    from kvasir.engine.async_llm import AsyncLLM

_PROCESS_BYTES = {"cpu": 384 << 20, "cuda": 1 << 30}
"""What a core takes beside weights and KV cache: code and buffers, on a card also its context."""
_SHARE = {"cpu": 0.80, "cuda": 0.95}
_DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Plan:
    """What loading a model takes.

    Attributes:
        num_bytes: of the device's memory.
        device_bytes: that models may take together, if nobody says otherwise; 0: unknown.
        resolved: the configuration, for the start.
    """

    num_bytes: int
    device_bytes: int
    resolved: Any


class Starter(Protocol):
    """SEAM: from a description to an engine."""

    def plan(self, spec: ModelSpec) -> Plan:
        """Raises ConfigError: no such model, or options that cannot be."""

    def start(self, plan: Plan) -> "AsyncLLM":
        """Raises ConfigError, EngineDeadError."""


class EngineStarter:
    """A core process for each model."""

    def plan(self, spec: ModelSpec) -> Plan:
        from kvasir.assembly.facts import gather_facts
        from kvasir.assembly.resolve import resolve

        facts = gather_facts(spec.args)
        resolved = resolve(spec.args, usage="server", facts=facts)
        bound = int(facts.memory_bytes * _SHARE[facts.device])
        return Plan(_need(resolved, facts.device, facts.memory_bytes), bound, resolved)

    def start(self, plan: Plan) -> "AsyncLLM":
        return import_module("kvasir.assembly.front").start_async_llm(plan.resolved)


def _need(resolved: "Resolved", device: str, device_bytes: int) -> int:
    """On a card, a model whose KV cache has no size of its own takes its share of the card.

    Several engine cores share a CPU's memory; of cards each has its own, and the bound is of one.
    """
    cache = resolved.config.cache
    if cache.kv_cache_memory is None:
        return int(device_bytes * cache.gpu_memory_utilization)
    num_here = resolved.config.parallel.data_parallel_size if device == "cpu" else 1
    return num_here * (_weight_bytes(resolved) + cache.kv_cache_memory + _PROCESS_BYTES[device])


def _weight_bytes(resolved: "Resolved") -> int:
    """As they will be in memory; files of another type than the model's are converted."""
    on_disk = sum(path.stat().st_size for path in resolved.model_path.glob("*.safetensors"))
    stored = _DTYPE_BYTES.get(str(resolved.shape.dtype), 0)
    wanted = _DTYPE_BYTES.get(resolved.config.model.dtype, 0)
    return on_disk * wanted // stored if stored and wanted else on_disk


def too_large(name: str, need: int, bound: int) -> str:
    return (
        f"{name} needs {format_bytes(need)}, and all models together may take {format_bytes(bound)} "
        "(--models-memory); give it a smaller kv_cache_memory or max_model_len."
    )
