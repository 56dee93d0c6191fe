"""What happens when the engine core dies under the server."""

from dataclasses import dataclass

from kvasir.config.option import at_least, option


@dataclass(frozen=True)
class SupervisionConfig:
    """What happens when the engine core dies under the server."""

    max_core_restarts: int = option(
        3,
        help="Times a dead engine core is started again within ten minutes; its requests go on where they were. One "
        "more death ends the server. 0: the first death does.",
        check=at_least(0),
    )
