"""Several models behind one port."""

from dataclasses import dataclass

from kvasir.config.option import at_least, option


@dataclass(frozen=True)
class RouterConfig:
    """Several models behind one port, loaded when they are asked for."""

    model_dir: str | None = option(
        None,
        help="Folder of models: each folder in it (or owner/name below it) that has a config.json is served under its "
        "name and loaded with its first request.",
    )
    models_config: str | None = option(
        None, help="YAML file of models with options of their own (docs/serving/several-models.md)."
    )
    models_max: int = option(
        4,
        help="Most models that are loaded at the same time; for one more, the least recently used is unloaded.",
        check=at_least(1),
    )
    models_memory: int | None = option(
        None,
        help="Memory that all loaded models may take together. By default 80 % of the host's memory on CPU, 95 % of "
        "the card's memory on a card.",
        check=at_least(1),
        unit="bytes",
    )
    models_wait: float = option(
        600.0, help="Longest time that a request waits for its model to be loaded.", check=at_least(0), unit="s"
    )
    models_max_waiting: int = option(
        256, help="Requests that may wait for models; one more is refused with HTTP 429.", check=at_least(1)
    )
