"""Whether a model is compiled, and which steps are captured as CUDA graphs."""

from dataclasses import dataclass
from typing import Any

from kvasir.config import compile_json
from kvasir.config.option import AUTO, between, option

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
    """Whether a model is compiled, and which steps are captured as CUDA graphs."""

    optimization_level: int = option(
        0,
        help="0: the model runs as it is. 1: traced once, its graph mended, its ops run one after another. 2: "
        "torch's inductor makes kernels of what stands between attention and our own ops. 3: as 2, and inductor times "
        "its choices. CUDA graphs are chosen apart from this, by cudagraph_mode.",
        short="-O",
        check=between(0, 3),
        affects_graph=True,
    )
    compilation_config: dict[str, Any] = option(
        {},
        help='JSON with how to compile, by vLLM\'s names: {"backend": "inductor", "custom_ops": ["none", "+linear"], '
        '"pass_config": {"fuse_rms_norm": false}, "inductor_compile_config": {...}, "debug_dump_path": "DIR"}; also '
        "mode, cudagraph_mode and cudagraph_capture_sizes.",
        short="-cc",
        check=compile_json.check,
        affects_graph=True,
    )
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
