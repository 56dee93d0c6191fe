"""Options from a YAML file: one `option: value` per line, dashes and underscores alike."""

from typing import Any

from kvasir.errors import ConfigError


def read_options(path: str) -> dict[str, Any]:
    """The file's options by name, unchecked.

    Raises:
        ConfigError: no such file, no valid YAML, or something else than a mapping of options.
    """
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError(f"--config {path}: cannot be read ({error.strerror}).", param="config") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {path}: is not valid YAML: {error}", param="config") from None
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"--config {path}: must hold `option: value` lines, such as `port: 8001`.", param="config")
    return {key.replace("-", "_"): value for key, value in values.items()}
