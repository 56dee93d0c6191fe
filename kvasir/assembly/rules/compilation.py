"""Rules for compiling, and for CUDA graphs: what is captured, and in which sizes."""

from typing import Any

from kvasir.assembly.facts import Facts
from kvasir.assembly.rules.decision import Decision
from kvasir.config import compile_json
from kvasir.config.option import AUTO
from kvasir.errors import ConfigError

LARGEST_DECODE = 1024
MIXED_SIZES: tuple[int, ...] = (64, 128, 192, 256, 384, 512, 768, 1024)


def optimization_level(asked: int, was_asked: bool, details: dict[str, Any], enforce_eager: bool) -> Decision:
    """`details` is the JSON of compilation_config, whose mode is another way to ask."""
    name = "optimization_level"
    mode = details.get("mode", details.get("level"))
    if enforce_eager:
        return Decision(name, 0, "enforce_eager")
    if was_asked or mode is None:
        return Decision(name, asked, "asked for" if was_asked else "the model runs as it is unless asked")
    return Decision(name, compile_json.MODES[str(mode).lower()], f"compilation_config has mode {mode}")


def compilation_config(details: dict[str, Any], level: int) -> Decision:
    """The JSON with everything said: backend, opaque_ops, passes_off, inductor options, dump folder; {} when off.

    Our own kernels are kept unless asked otherwise: generated code is slower where it takes their place.
    """
    name = "compilation_config"
    if level == 0:
        return Decision(name, {}, "nothing is compiled")
    backend = details.get("backend") or ("eager" if level == 1 else "inductor")
    opaque = set(compile_json.OPS)
    for word in details.get("custom_ops", []):
        if word in ("all", "none"):
            opaque = set(compile_json.OPS) if word == "all" else set()
        else:
            (opaque.add if word[0] == "+" else opaque.discard)(word[1:])
    tuned = {"max_autotune": True, "coordinate_descent_tuning": True} if level == 3 else {}
    value = {
        "backend": backend,
        "opaque_ops": [op for op in compile_json.OPS if op in opaque],
        "passes_off": sorted(p for p, on in details.get("pass_config", {}).items() if not on),
        "inductor_options": {**tuned, **details.get("inductor_compile_config", {})},
        "dump": details.get("debug_dump_path"),
    }
    return Decision(name, value, f"level {level}")


def from_json(name: str, asked: Any, details: dict[str, Any], read: Any) -> Any:
    """The value of an option that compilation_config may give, too.

    Args:
        read: what reads and checks the option.

    Raises:
        ConfigError: the two differ.
    """
    if name not in details:
        return asked
    value = read(details[name])
    if asked not in (AUTO, value):
        raise ConfigError(f"{name} is {asked!r}, and {value!r} in compilation_config; keep one of the two.", param=name)
    return value


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
