"""Where weights come from."""

from dataclasses import dataclass

from kvasir.config.option import AUTO, option

LOAD_FORMATS = ("safetensors", "dummy")


@dataclass(frozen=True)
class LoadConfig:
    """Where weights come from."""

    load_format: str = option(
        AUTO,
        help="safetensors: read the checkpoint. dummy: random weights of the right shapes, for measuring speed. "
        "auto: safetensors.",
        choices=LOAD_FORMATS,
    )
    download_dir: str | None = option(
        None, help="Folder for files from the hub. By default the hub's own cache (HF_HOME)."
    )
