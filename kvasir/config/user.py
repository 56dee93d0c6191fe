"""What the user wrote: `EngineArgs` and `ServerArgs`, flat, every name checked, `auto` still allowed."""

import argparse
import difflib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self, TypeVar

from kvasir.config.attention import AttentionConfig
from kvasir.config.batch import BatchConfig
from kvasir.config.cache import CacheConfig
from kvasir.config.compilation import CompilationConfig
from kvasir.config.device import DeviceConfig
from kvasir.config.load import LoadConfig
from kvasir.config.model import ModelConfig
from kvasir.config.observability import ObservabilityConfig
from kvasir.config.option import HIDDEN, Option, options_of
from kvasir.config.parallel import ParallelConfig
from kvasir.config.router import RouterConfig
from kvasir.config.scheduler import SchedulerConfig
from kvasir.config.server import ServerConfig
from kvasir.config.structured import StructuredConfig
from kvasir.config.supervision import SupervisionConfig
from kvasir.config.vllm_names import FOREIGN
from kvasir.errors import ConfigError
from kvasir.logger import log_once

ENGINE_SECTIONS: tuple[type, ...] = (
    ModelConfig,
    CacheConfig,
    SchedulerConfig,
    ParallelConfig,
    DeviceConfig,
    LoadConfig,
    AttentionConfig,
    CompilationConfig,
    ObservabilityConfig,
    SupervisionConfig,
    StructuredConfig,
)
SERVER_SECTIONS: tuple[type, ...] = (ServerConfig, BatchConfig, RouterConfig)

S = TypeVar("S")


class FlatArgs:
    """Options of several sections as one flat bag of attributes; only `SECTIONS` differs between kinds."""

    SECTIONS: ClassVar[tuple[type, ...]] = ()

    def __init__(self, **given: Any):
        options = self.options()
        self.__dict__.update({name: option.read(None) for name, option in options.items()})
        self.__dict__["given"] = {}
        for name, value in given.items():
            setattr(self, name, value)

    @classmethod
    def options(cls) -> dict[str, Option]:
        """Every option of this kind by name."""
        return {name: option for section in cls.SECTIONS for name, option in options_of(section).items()}

    def __setattr__(self, name: str, value: Any) -> None:
        name = _canonical(name, self.options())
        option = self.options().get(name)
        if option is None:
            check_foreign(name, value, self.options())
            return
        self.__dict__[name] = option.read(value)
        self.__dict__["given"][name] = self.__dict__[name]

    def __getattr__(self, name: str) -> Any:  # only reached for names that are no options
        raise AttributeError(f"{type(self).__name__} has no option {name!r}{did_you_mean(name, self.options())}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and dict(self) == dict(other)

    def __repr__(self) -> str:
        options = self.options()
        given = (f"{k}={HIDDEN if options[k].secret else repr(v)}" for k, v in self.__dict__["given"].items())
        return f"{type(self).__name__}({', '.join(given)})"

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Name and value of every option, so that `dict(args)` works."""
        return ((name, self.__dict__[name]) for name in self.options())

    def section(self, cls: type[S]) -> S:
        """The values as one section, `auto` still in it."""
        return cls(**{name: self.__dict__[name] for name in options_of(cls)})

    @classmethod
    def from_yaml(cls, path: str) -> Self:
        """Reads a YAML file of `option: value` lines; options of the other kind are left to the other kind."""
        from kvasir.config.yaml_file import read_options

        return cls(**_own(cls, read_options(path)))

    @classmethod
    def from_cli_args(cls, args: argparse.Namespace) -> Self:
        """From a parsed command line; what is there wins over the file given with `--config`."""
        given = dict(vars(args))
        if given.get("model_tag") is not None:
            given["model"] = _one_model(given.get("model"), given["model_tag"])
        from_file: dict[str, Any] = {}
        if given.get("config"):
            from kvasir.config.yaml_file import read_options

            from_file = _own(cls, read_options(given["config"]))
        options = cls.options()
        return cls(**from_file | {k: v for k, v in given.items() if k in options})

    @classmethod
    def add_cli_args(cls, parser: argparse.ArgumentParser, include_server: bool = False) -> argparse.ArgumentParser:
        """Adds a flag for every option (and with `include_server` those of the server), and `--config`."""
        from kvasir.config.cli import add_flags

        extra = SERVER_SECTIONS if include_server and cls.SECTIONS != SERVER_SECTIONS else ()
        add_flags(parser, (*cls.SECTIONS, *extra))
        return parser


class EngineArgs(FlatArgs):
    """Everything the engine can be told, by the names of vLLM's class: `EngineArgs(model=..., max_num_seqs=64)`.

    Raises:
        ConfigError: an unknown name (with the nearest known one), or a value out of its bounds.
    """

    SECTIONS = ENGINE_SECTIONS

    def __init__(self, model: Any = None, **given: Any):
        super().__init__(**({"model": model} if model is not None else {}), **given)


AsyncEngineArgs = EngineArgs
"""The engine is the same for sync and async use; the second name is kept for programs written for vLLM."""


class ServerArgs(FlatArgs):
    """Everything the HTTP server can be told besides the engine's options."""

    SECTIONS = SERVER_SECTIONS

    def api_keys(self) -> tuple[str, ...]:
        """Keys from `--api-key`, or from KVASIR_API_KEY when none is given there. Empty: no key is asked for.

        A variable that is set to nothing is a key that is empty, and refused later: it was meant to close the server.
        """
        from kvasir import envs

        return tuple(self.api_key) or ((envs.API_KEY.value,) if envs.API_KEY.is_set else ())


def did_you_mean(name: str, options: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""


def check_foreign(name: str, value: Any, options: Mapping[str, Option]) -> None:
    """Passes for an option of another engine that can be left out, and says so once.

    Raises:
        ConfigError: the name is unknown, or what it asks for cannot be had.
    """
    row = FOREIGN.get(name)
    if row is None:
        hint = did_you_mean(name, options) or "; `kvasir serve --help` lists all of them"
        raise ConfigError(f"unknown option {name!r}{hint}", param=name)
    if row.accepts_quietly(value):
        return
    if row.verdict == "refused":
        raise ConfigError(f"{name}={value!r} cannot be had: {row.sentence}.", param=name)
    log_once("kvasir.config", logging.INFO, f"{name} is ignored: {row.sentence}.")


def _canonical(name: str, options: Mapping[str, Option]) -> str:
    """Another name of an option (`kv_cache_memory_bytes`) to its own."""
    if name in options:
        return name
    flag = "--" + name.replace("_", "-")
    return next((option.name for option in options.values() if flag in option.aliases), name)


def _own(cls: type[FlatArgs], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that are not options of the other kind only."""
    everything = EngineArgs.options() | ServerArgs.options()
    others = everything.keys() - cls.options().keys()
    named = {_canonical(name, everything): value for name, value in values.items()}
    return {name: value for name, value in named.items() if name not in others}


def _one_model(flag: str | None, positional: str) -> str:
    if flag is not None and flag != positional:
        raise ConfigError(f"two models are given, {positional!r} and --model {flag!r}; keep one.", param="model")
    return positional
