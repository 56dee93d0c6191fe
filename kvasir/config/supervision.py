"""What happens when the engine core dies, or hangs, under the server."""

from dataclasses import dataclass

from kvasir.config.option import AUTO, at_least, option


@dataclass(frozen=True)
class SupervisionConfig:
    """What happens when the engine core dies, or hangs, under the server."""

    max_core_restarts: int = option(
        3,
        help="Times a dead engine core is started again within ten minutes; its requests go on where they were. One "
        "more death ends the server. 0: the first death does. Restarts that find and remove a request which ends the "
        "core are not counted.",
        check=at_least(0),
    )
    engine_iteration_timeout: float = option(
        AUTO,
        help="Seconds that one engine step may take while requests wait; a core that is silent for longer is killed "
        "and started again. auto: 120 on a card, 600 on a CPU, where a long prompt may take minutes.",
        check=at_least(1),
        unit="s",
        aliases=("--engine-iteration-timeout-s",),
    )
    engine_load_timeout: float = option(
        600.0,
        help="Seconds without progress after which a core that imports, opens its device or loads weights is given "
        "up; every 128 MiB of weights is progress.",
        check=at_least(1),
        unit="s",
    )
    engine_compile_timeout: float = option(
        900.0,
        help="The same for compiling kernels and warming up.",
        check=at_least(1),
        unit="s",
    )
    incident_dir: str | None = option(
        None,
        help="Folder for a small JSON file about each death of a core, without prompts or texts; the newest 32 are "
        "kept. Default: incidents in KVASIR_CACHE_DIR.",
    )
    standby_core: bool = option(
        False,
        help="Keep a second core process waiting with its imports done, so that a restart takes less time. It costs "
        "the host memory of an idle interpreter with torch.",
    )
