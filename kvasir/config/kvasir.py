"""KvasirConfig: every section resolved and frozen; nothing in it says `auto`."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from kvasir.config.attention import AttentionConfig
from kvasir.config.cache import CacheConfig
from kvasir.config.compilation import CompilationConfig
from kvasir.config.device import DeviceConfig
from kvasir.config.load import LoadConfig
from kvasir.config.model import ModelConfig
from kvasir.config.observability import ObservabilityConfig
from kvasir.config.option import AUTO, options_of
from kvasir.config.parallel import ParallelConfig
from kvasir.config.scheduler import SchedulerConfig
from kvasir.config.structured import StructuredConfig
from kvasir.config.supervision import SupervisionConfig
from kvasir.errors import ConfigError

if TYPE_CHECKING:
    from kvasir.config.hf import ModelShape


@dataclass(frozen=True)
class KvasirConfig:
    """Every section, resolved.

    Made once by `kvasir.assembly.resolve`; what is learned at run time goes into messages, never in here.

    Raises:
        ConfigError: an option is still `auto`.
    """

    model: ModelConfig
    cache: CacheConfig
    scheduler: SchedulerConfig
    parallel: ParallelConfig
    device: DeviceConfig
    load: LoadConfig
    attention: AttentionConfig
    compilation: CompilationConfig
    observability: ObservabilityConfig
    supervision: SupervisionConfig = SupervisionConfig()
    structured: StructuredConfig = field(default_factory=StructuredConfig)

    def __post_init__(self) -> None:
        for section in self._sections():
            for name in options_of(type(section)):
                value = getattr(section, name)
                if isinstance(value, str) and value == AUTO:
                    raise ConfigError(f"{name} is still auto: no rule has resolved it.", param=name)

    def compute_hash(self, shape: "ModelShape", **extra: str) -> str:
        """Names what a compiled graph depends on: equal hashes mean that a stored graph may be used again.

        In it: every option declared with `affects_graph=True`, the model's shape, the versions of kvasir, torch and
        triton, and `extra` (what the worker learned: the card, the attention backend it chose). Seeds, names,
        cache sizes and the like are not in it.
        """
        parts: dict[str, Any] = {
            name: getattr(section, name)
            for section in self._sections()
            for name, option in options_of(type(section)).items()
            if option.affects_graph
        }
        parts["shape"] = {k: v for k, v in _plain(shape).items() if k != "raw"}
        parts["raw"] = {k: v for k, v in _plain(shape).get("raw", {}).items() if k not in _RAW_NOISE}
        parts["versions"] = {name: _version(name) for name in ("kvasir-llm", "torch", "triton")}
        parts["extra"] = extra
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def encode(self) -> bytes:
        """As JSON, for another process."""
        return msgspec.json.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "KvasirConfig":
        return msgspec.json.decode(data, type=cls)

    def _sections(self) -> Iterator[Any]:
        return (getattr(self, field.name) for field in dataclasses.fields(self))


# Keys of config.json that say who made the file, not what the model computes.
_RAW_NOISE = frozenset({"_name_or_path", "transformers_version", "torch_dtype", "dtype"})


def _plain(shape: Any) -> dict[str, Any]:
    return dict(msgspec.to_builtins(shape))


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"
