"""Rules for CUDA graphs: what is captured, and in which sizes."""

from kvasir.assembly.facts import Facts
from kvasir.assembly.rules.decision import Decision
from kvasir.config.option import AUTO

LARGEST_DECODE = 1024
MIXED_SIZES: tuple[int, ...] = (64, 128, 192, 256, 384, 512, 768, 1024)


def cudagraph_mode(asked: str, enforce_eager: bool, facts: Facts) -> Decision:
    name = "cudagraph_mode"
    if enforce_eager:
        return Decision(name, "none", "enforce_eager")
    if facts.device == "cpu":
        return Decision(name, "none", "there are no CUDA graphs on a CPU")
    if asked != AUTO:
        return Decision(name, asked, "asked for")
    return Decision(name, "full", "a replay costs the host a tenth of the launches")


def cudagraph_capture_sizes(asked: list[int] | str, mode: str, num_seqs: int) -> Decision:
    name = "cudagraph_capture_sizes"
    if mode == "none":
        return Decision(name, [], "nothing is captured")
    if not isinstance(asked, str):
        return Decision(name, sorted({size for size in asked if size <= num_seqs}), "asked for, up to max_num_seqs")
    most = min(num_seqs, LARGEST_DECODE)
    sizes = [1, 2, 4]
    while sizes[-1] < most:
        step = max(4, 1 << max(0, sizes[-1].bit_length() - 3))  # an eighth to a quarter of the size
        sizes.append(sizes[-1] + step)
    return Decision(name, sorted({min(size, most) for size in sizes}), "little padding at any size")


def cudagraph_mixed_sizes(asked: list[int] | str, mode: str, budget: int) -> Decision:
    name = "cudagraph_mixed_sizes"
    if mode != "full":
        return Decision(name, [], f"cudagraph_mode is {mode}")
    sizes, why = MIXED_SIZES, "larger steps keep the card busy by themselves"
    if not isinstance(asked, str):
        sizes, why = tuple(asked), "asked for, up to the token budget"
    return Decision(name, sorted({size for size in sizes if size <= budget}), why)
