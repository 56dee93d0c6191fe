"""Which steps are captured as CUDA graphs."""

from dataclasses import dataclass
from typing import Any

from kvasir.config.option import AUTO, option

CUDAGRAPH_MODES = ("none", "full_decode_only", "full")
MAX_SIZE = 1 << 16
_MORE_NAMES = {"full_and_piecewise": "full"}  # here the mixed steps are captured whole, attention included


def _mode(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    name = value.lower()
    return _MORE_NAMES.get(name, name)


def _sizes(values: list[int]) -> str | None:
    return None if all(0 < v <= MAX_SIZE for v in values) else f"must hold numbers from 1 to {MAX_SIZE}"


@dataclass(frozen=True)
class CompilationConfig:
    """Which steps are captured as CUDA graphs."""

    cudagraph_mode: str = option(
        AUTO,
        help="full: steps in which every request decodes, and small mixed ones. full_decode_only: only the former. "
        "none: every kernel is launched by itself. auto: full on a card, none on CPU or with enforce_eager.",
        choices=CUDAGRAPH_MODES,
        convert=_mode,
        affects_graph=True,
    )
    cudagraph_capture_sizes: list[int] = option(
        AUTO,
        help="Requests of the captured decode steps; a step between two sizes is padded. auto: 1, 2, 4, then steps of "
        "an eighth to a quarter, up to max_num_seqs and at most 1024.",
        check=_sizes,
        affects_graph=True,
    )
    cudagraph_mixed_sizes: list[int] = option(
        AUTO,
        help="Tokens of the captured mixed steps (prompts and decoding together). auto: 64 to 1024.",
        check=_sizes,
        affects_graph=True,
    )
