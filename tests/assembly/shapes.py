"""Facts written by hand."""

from typing import Any

from kvasir.assembly import Facts
from kvasir.config.hf import ModelShape

CPU = Facts("cpu", "test", memory_bytes=24 * 10**9, cpu_cores=2)
CPU_BF16 = Facts("cpu", "test", memory_bytes=24 * 10**9, cpu_cores=2, cpu_flags=frozenset({"avx512_bf16"}))
LARGE = Facts("cuda", "test", memory_bytes=80 * 10**9, cpu_cores=16, capability=(9, 0))
SMALL = Facts("cuda", "test", memory_bytes=24 * 10**9, cpu_cores=16, capability=(8, 9))
OLD = Facts("cuda", "test", memory_bytes=16 * 10**9, cpu_cores=8, capability=(7, 5))


def shape(**changes: Any) -> ModelShape:
    values: dict[str, Any] = {
        "architectures": ("LlamaForCausalLM",),
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_size": 16,
        "max_position_embeddings": 2048,
    }
    return ModelShape(**values | changes)
