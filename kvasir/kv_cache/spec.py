"""KVSpec: the sizes of the paged cache, as the worker reports them in its Ready message."""

from dataclasses import dataclass

from kvasir.errors import ConfigError


@dataclass(frozen=True)
class KVSpec:
    """N blocks of S tokens each.

    Raises:
        ConfigError: a size is not positive.
    """

    num_blocks: int
    block_size: int
    bytes_per_block: int = 0

    def __post_init__(self) -> None:
        if self.num_blocks < 1:
            raise ConfigError(
                f"the KV cache has {self.num_blocks} blocks; at least 1 is needed. "
                "Give it more memory (--kv-cache-memory or --gpu-memory-utilization)."
            )
        if self.block_size < 1:
            raise ConfigError(f"--block-size must be at least 1, got {self.block_size}.")

    @property
    def num_tokens(self) -> int:
        """Tokens the whole cache holds."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)
