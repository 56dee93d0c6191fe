"""Which models there are: from a folder of them, and from a YAML file. Nothing is loaded here."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvasir.config import EngineArgs, ServerArgs
from kvasir.entrypoints.http.structure import check_parsers
from kvasir.errors import ConfigError, NotFoundError

MAX_MODELS = 1000
SERVER_OPTIONS = ("tool_call_parser", "reasoning_parser", "default_chat_template_kwargs", "response_role")
"""Options of the server that belong to a model."""
_RESCAN_S = 2.0


@dataclass(frozen=True)
class ModelSpec:
    """One model that can be loaded.

    Attributes:
        name: under which it is listed; `aliases` are answered as well.
        args: the engine's options.
        server: values of SERVER_OPTIONS that differ from the server's.
        pin: never unloaded to make room.
        load: loaded at start, without waiting for a request.
    """

    name: str
    args: EngineArgs
    aliases: tuple[str, ...] = ()
    server: tuple[tuple[str, Any], ...] = ()
    pin: bool = False
    load: bool = False


class Catalog:
    """Looks into the folder again when models are listed or a name is unknown, at most every two seconds.

    Args:
        common: options of the command line, which hold for all models.

    Raises:
        ConfigError: the file or the folder cannot be read, or says something wrong.
    """

    def __init__(
        self,
        common: EngineArgs,
        model_dir: str | None,
        models_config: str | None,
        clock: Callable[[], float] = time.monotonic,
    ):
        for name in ("model", "served_model_name"):
            if name in common.given:
                raise ConfigError(
                    f"{name} belongs to one model; with --model-dir or --models-config, name it there.", param=name
                )
        self._common = common
        self._folder = None if model_dir is None else Path(model_dir).expanduser()
        self._clock = clock
        self._fixed = {} if models_config is None else {spec.name: spec for spec in _read(models_config, common)}
        self._found: dict[str, ModelSpec] = {}
        self._scanned = -_RESCAN_S
        self._by_name: dict[str, ModelSpec] = {}
        if self._folder is not None and not self._folder.is_dir():
            raise ConfigError(f"--model-dir {model_dir}: there is no such folder.", param="model_dir")
        self._look()
        if not self._by_name:
            raise ConfigError(
                "there is no model: --model-dir has no folder with a config.json, and --models-config names none."
            )

    def specs(self) -> list[ModelSpec]:
        """Those of the file first."""
        self._look()
        return [*self._fixed.values(), *self._found.values()]

    def find(self, name: str | None) -> ModelSpec:
        """The model of a name; where there is a single one, a request need not name it.

        Raises:
            NotFoundError: with the names there are.
        """
        if name and name in self._by_name:
            return self._by_name[name]
        specs = self.specs()
        if not name and len(specs) == 1:
            return specs[0]
        found = self._by_name.get(name or "")
        if found is None:
            names = ", ".join(spec.name for spec in specs[:20]) + (", ..." if len(specs) > 20 else "")
            what = f"there is no model {name!r:.200} here" if name else "model is required"
            raise NotFoundError(f"{what}; this server has {names}.", param="model")
        return found

    def _look(self) -> None:
        """Into the folder, if the last look was a while ago. Models that are known keep their description."""
        now = self._clock()
        if now - self._scanned < _RESCAN_S:
            return
        self._scanned = now
        folders = {} if self._folder is None else dict(_scan(self._folder))
        self._found = {
            name: self._found.get(name) or self._spec_of(name, path)
            for name, path in folders.items()
            if name not in self._fixed
        }
        specs = [*self._found.values(), *self._fixed.values()]
        self._by_name = {alias: spec for spec in specs for alias in spec.aliases} | {spec.name: spec for spec in specs}

    def _spec_of(self, name: str, path: Path) -> ModelSpec:
        return ModelSpec(name, make_args(self._common, name, (), {"model": str(path)}))


def make_args(common: EngineArgs, name: str, aliases: tuple[str, ...], own: Mapping[str, Any]) -> EngineArgs:
    """The options of one model: what holds for all, then its own.

    Raises:
        ConfigError: an option that nobody knows, or a value that cannot be.
    """
    return EngineArgs(**{**common.given, **own, "served_model_name": [name, *aliases]})


def _scan(folder: Path) -> Iterator[tuple[str, Path]]:
    """name -> folder, in the order of names; a folder that cannot be read has no models."""
    count = 0
    for entry in _folders(folder):
        inside = [entry] if _is_model(entry) else [sub for sub in _folders(entry) if _is_model(sub)]
        for path in inside:
            count += 1
            if count > MAX_MODELS:
                return
            yield str(path.relative_to(folder)), path


def _folders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(e.path) for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError:
        return []


def _is_model(folder: Path) -> bool:
    return (folder / "config.json").is_file()


def _read(path: str, common: EngineArgs) -> list[ModelSpec]:
    import yaml

    def wrong(text: str) -> ConfigError:
        return ConfigError(f"--models-config {path}: {text}", param="models_config")

    try:
        with open(path, encoding="utf-8") as file:
            data = yaml.safe_load(file)
    except OSError as e:
        raise wrong(f"cannot be read ({e.strerror}).") from None
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise wrong(f"is not valid YAML: {e}") from None
    models = data.get("models") if isinstance(data, dict) else None
    if not isinstance(models, dict) or not models or len(models) > MAX_MODELS:
        raise wrong(f"must hold `models:` with 1 to {MAX_MODELS} entries `NAME: {{option: value}}`.")
    specs: list[ModelSpec] = []
    taken: set[str] = set()
    for name, options in models.items():
        try:
            spec = _spec(str(name), options, common)
        except ConfigError as e:
            raise wrong(f"{name}: {e.message}") from None
        for alias in (spec.name, *spec.aliases):
            if alias in taken:
                raise wrong(f"two models are called {alias!r}.")
            taken.add(alias)
        specs.append(spec)
    return specs


def _spec(name: str, options: Any, common: EngineArgs) -> ModelSpec:
    options = {} if options is None else options
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ConfigError("must be `option: value` lines.")
    own = {key.replace("-", "_"): value for key, value in options.items()}
    aliases = own.pop("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(alias, str) and alias for alias in aliases):
        raise ConfigError(f"aliases must be a list of names, got {aliases!r:.80}.")
    switches = {key: own.pop(key, False) for key in ("pin", "load")}
    for key, value in switches.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{key} must be true or false, got {value!r:.80}.")
    server_args = ServerArgs(**{key: own.pop(key) for key in SERVER_OPTIONS if key in own})
    check_parsers(server_args.tool_call_parser, server_args.reasoning_parser)
    args = make_args(common, name, tuple(aliases), {"model": name, **own})
    return ModelSpec(name, args, tuple(aliases), tuple(server_args.given.items()), **switches)
