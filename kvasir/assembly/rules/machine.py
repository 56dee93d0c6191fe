"""Rules for the machine: device, threads, executor, where weights come from."""

from kvasir import envs
from kvasir.assembly.facts import Facts
from kvasir.assembly.rules.decision import Decision
from kvasir.config.option import AUTO
from kvasir.errors import ConfigError


def device(facts: Facts) -> Decision:
    return Decision("device", facts.device, facts.why_device)


def cpu_threads(asked: int | str, facts: Facts, num_cores: int = 1) -> Decision:
    """Of one engine core; several share the processor."""
    if asked != AUTO:
        return Decision("cpu_threads", asked, "asked for")
    from_env = envs.CPU_THREADS.value
    if from_env:
        if not from_env.isdigit() or int(from_env) < 1:
            raise ConfigError(f"KVASIR_CPU_THREADS is {from_env!r}: it must be a whole number of at least 1.")
        return Decision("cpu_threads", int(from_env), f"KVASIR_CPU_THREADS={from_env}")
    if num_cores > 1:
        share = max(1, facts.cpu_cores // num_cores)
        return Decision("cpu_threads", share, f"{facts.cpu_cores} cores shared out over data_parallel_size={num_cores}")
    return Decision("cpu_threads", facts.cpu_cores, "the cores this process may use")


def check_data_parallel(size: int, facts: Facts, *, offline: bool) -> None:
    """Raises ConfigError when this machine cannot have so many cores."""
    if size == 1:
        return
    if offline:
        raise ConfigError(
            f"data_parallel_size is {size}: the offline engine has one core. Use the server, or start several programs "
            "with CUDA_VISIBLE_DEVICES set.",
            param="data_parallel_size",
        )
    if facts.device == "cuda" and size > facts.num_cards:
        raise ConfigError(
            f"data_parallel_size is {size} and {facts.num_cards} cards can be used: each core needs a card of its own. "
            "Lower it, or make more cards visible (CUDA_VISIBLE_DEVICES).",
            param="data_parallel_size",
        )


def executor(asked: str, world_size: int) -> Decision:
    if asked != AUTO:
        return Decision("distributed_executor_backend", asked, "asked for")
    if world_size == 1:
        return Decision("distributed_executor_backend", "uni", "one worker")
    return Decision("distributed_executor_backend", "mp", f"{world_size} workers")


def load_format(asked: str) -> Decision:
    if asked != AUTO:
        return Decision("load_format", asked, "asked for")
    return Decision("load_format", "safetensors", "the only format of checkpoints")


def engine_iteration_timeout(asked: float | str, facts: Facts) -> Decision:
    """Well above the longest honest step: a core that is killed for nothing costs every stream a pause."""
    if asked != AUTO:
        return Decision("engine_iteration_timeout", asked, "asked for")
    if facts.device == "cpu":
        return Decision("engine_iteration_timeout", 600.0, "a step of long prompts may take minutes on a CPU")
    return Decision("engine_iteration_timeout", 120.0, "no step on a card takes that long")
