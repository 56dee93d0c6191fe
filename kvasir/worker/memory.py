"""How many KV blocks fit: measured figures in, a plan out, printed as a table, with advice when it does not fit."""

from dataclasses import dataclass

from kvasir.config.units import format_bytes
from kvasir.errors import ConfigError

MIN_USEFUL_BLOCKS = 64
"""Below this a context that nobody asked for is not cut any further: the start fails with advice instead."""


@dataclass(frozen=True)
class MemoryFigures:
    """Measured bytes of one device.

    Attributes:
        total: memory the device has.
        free: free now, with weights loaded and the peak step's scratch given back.
        weights: held by parameters.
        activations: peak of a step of the largest size, beyond the weights.
        limit: bytes this process may use in all.
    """

    total: int
    free: int
    weights: int
    activations: int
    limit: int


@dataclass(frozen=True)
class MemoryPlan:
    rows: tuple[tuple[str, int], ...]
    kv_bytes: int
    num_blocks: int
    block_size: int
    max_model_len: int

    def table(self) -> str:
        lines = [f"  {name:<34s}{format_bytes(size):>12s}" for name, size in self.rows]
        lines.append(f"  {'KV cache':<34s}{format_bytes(self.kv_bytes):>12s}")
        lines.append(
            f"  = {self.num_blocks:,} blocks of {self.block_size} tokens: {self.num_blocks * self.block_size:,} tokens"
        )
        return "\n".join(lines)


def plan_kv_cache(
    figures: MemoryFigures,
    *,
    device: str,
    bytes_per_block: int,
    block_size: int,
    max_model_len: int,
    max_num_seqs: int,
    utilization: float,
    kv_cache_bytes: int | None,
    num_blocks_override: int | None,
    may_shrink: bool,
) -> MemoryPlan:
    """Decides the number of KV blocks.

    Order of precedence: `num_blocks_override`, `kv_cache_bytes` (on CPU the configuration always has one),
    then what is left under `utilization`. Never more than `max_num_seqs` requests of `max_model_len` could use.
    With `may_shrink` (nobody asked for this `max_model_len`) the context is cut to what fits, if that is something.

    Raises:
        ConfigError: one request of `max_model_len` does not fit; says which options would make it fit.
    """
    blocks_per_request = -(-max_model_len // block_size)
    useful = blocks_per_request * max_num_seqs + 1
    if num_blocks_override is not None:
        available, useful = num_blocks_override * bytes_per_block, num_blocks_override
    elif kv_cache_bytes is not None:
        available = kv_cache_bytes
    else:
        available = min(figures.limit - figures.weights - figures.activations, figures.free - figures.activations)
    num_blocks = max(0, min(available // bytes_per_block, useful))
    if num_blocks < blocks_per_request and may_shrink and num_blocks >= MIN_USEFUL_BLOCKS:
        max_model_len = num_blocks * block_size
    elif num_blocks < blocks_per_request:
        raise ConfigError(_advice(figures, device, available, bytes_per_block, block_size, max_model_len, utilization))
    rows = [("device memory", figures.total)]
    if device != "cpu":
        rows.append((f"limit (--gpu-memory-utilization {utilization})", figures.limit))
    rows.append(("weights", figures.weights))
    if figures.activations:
        rows.append(("activations of the largest step", figures.activations))
    return MemoryPlan(tuple(rows), num_blocks * bytes_per_block, num_blocks, block_size, max_model_len)


def _advice(
    figures: MemoryFigures,
    device: str,
    available: int,
    bytes_per_block: int,
    block_size: int,
    max_model_len: int,
    utilization: float,
) -> str:
    need = -(-max_model_len // block_size) * bytes_per_block
    fits = max(0, available // bytes_per_block) * block_size
    text = (
        f"The KV cache does not fit: one request of --max-model-len {max_model_len} needs "
        f"{format_bytes(need)}, there is room for {format_bytes(max(0, available))} ({fits} tokens) beside "
        f"{format_bytes(figures.weights)} of weights."
    )
    hints = []
    if fits >= block_size:
        hints.append(f"--max-model-len {fits}")
    if device == "cpu":
        hints.append(f"--kv-cache-memory {need} ({format_bytes(figures.free)} are free)")
    else:
        wanted = (figures.weights + figures.activations + need) / figures.total
        if utilization < wanted <= 0.98:
            hints.append(f"--gpu-memory-utilization {min(0.98, wanted + 0.01):.2f}")
        hints.append("a smaller --max-num-batched-tokens (smaller activations)")
    return text + " Try " + ", or ".join(hints) + "."
