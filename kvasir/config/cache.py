"""The KV cache: how much of it, in what pieces, shared or not."""

from dataclasses import dataclass

from kvasir.config.option import AUTO, at_least, fraction, option, power_of_two


@dataclass(frozen=True)
class CacheConfig:
    """The KV cache: how much of it, in what pieces, shared or not."""

    block_size: int = option(
        AUTO, help="Tokens in one KV block. auto: 16.", check=power_of_two(256), unit="tokens", affects_graph=True
    )
    gpu_memory_utilization: float = option(
        0.92,
        help="Share of the card's memory that weights, activations and KV cache may take together. Not used on CPU.",
        check=fraction,
    )
    kv_cache_memory: int | None = option(
        None,
        help="Size of the KV cache, such as 4GiB; wins over gpu_memory_utilization. By default: what is left on a "
        "card; on CPU a quarter of the memory, at most 4 GiB and no more than max_num_seqs full requests need "
        "(KVASIR_CPU_KVCACHE_SPACE sets it in GiB).",
        aliases=("--kv-cache-memory-bytes",),
        check=at_least(1),
        unit="bytes",
    )
    num_gpu_blocks_override: int | None = option(
        None, help="Exact number of KV blocks, on any device; for tests and experiments.", check=at_least(1)
    )
    enable_prefix_caching: bool = option(
        True, help="Reuse the KV blocks of a prompt's beginning when another request has the same beginning."
    )
