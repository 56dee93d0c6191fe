"""Rules for the KV cache: block size, and its size where no card's free memory decides it."""

from kvasir import envs
from kvasir.assembly.facts import Facts
from kvasir.assembly.rules.decision import Decision
from kvasir.config.hf import ModelShape
from kvasir.config.option import AUTO
from kvasir.config.units import format_bytes
from kvasir.errors import ConfigError

GIB = 1024**3
CPU_CACHE_BOUND = 4 * GIB
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


def block_size(asked: int | str) -> Decision:
    if asked != AUTO:
        return Decision("block_size", asked, "asked for")
    return Decision("block_size", 16, "little waste per request, still one tile of a kernel")


def kv_bytes_per_token(shape: ModelShape, dtype: str) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_size * _BYTES[dtype]


def kv_cache_memory(
    asked: int | None,
    *,
    shape: ModelShape,
    dtype: str,
    block_size: int,
    model_len: int,
    num_seqs: int,
    facts: Facts,
    num_cores: int = 1,
) -> Decision:
    """Bytes of one core's KV cache; None on a card, where the worker takes what gpu_memory_utilization leaves.

    On CPU: the variable, else a quarter of the memory but at most 4 GiB, since the host has other things to do,
    shared out over `num_cores`; and never more than `num_seqs` requests of full length could fill.
    """
    name = "kv_cache_memory"
    if asked is not None:
        return Decision(name, asked, f"asked for, {format_bytes(asked)}")
    if facts.device != "cpu":
        return Decision(name, None, "what gpu_memory_utilization leaves, measured by the worker")
    gibibytes = envs.CPU_KV_CACHE_GIB.value
    if gibibytes:
        return Decision(name, _from_env(gibibytes), f"KVASIR_CPU_KVCACHE_SPACE={gibibytes}")
    quarter = min(facts.memory_bytes // 4, CPU_CACHE_BOUND) // num_cores
    blocks_each = -(-model_len // block_size)
    # One block more: the pool may keep a block to itself for rows that write nowhere.
    useful = kv_bytes_per_token(shape, dtype) * block_size * (blocks_each * num_seqs + 1)
    if useful <= quarter:
        return Decision(name, useful, f"{format_bytes(useful)}: max_num_seqs requests of full length")
    shared = "" if num_cores == 1 else f", over {num_cores} cores"
    return Decision(name, quarter, f"{format_bytes(quarter)}: a quarter of the memory, at most 4 GiB{shared}")


def _from_env(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ConfigError(f"KVASIR_CPU_KVCACHE_SPACE is {text!r}: it must be a number of GiB above 0, such as 8.")
    return int(value * GIB)
