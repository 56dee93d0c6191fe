"""Architecture name -> implementation. Needs no torch: a class is imported only when it is asked for."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module

from kvasir.errors import ConfigError


@dataclass(frozen=True)
class ModelInfo:
    """What one may know of an architecture without importing it.

    Attributes:
        target: "module:Class", or the class itself when it was registered as one.
        tasks: what it can do ("generate").
    """

    architecture: str
    target: str | type
    tasks: tuple[str, ...] = ("generate",)


_BUILT_IN = {
    "LlamaForCausalLM": "kvasir.models.text.llama:LlamaForCausalLM",
    "MistralForCausalLM": "kvasir.models.text.mistral:MistralForCausalLM",
    "Qwen2ForCausalLM": "kvasir.models.text.qwen2:Qwen2ForCausalLM",
    "Qwen3ForCausalLM": "kvasir.models.text.qwen3:Qwen3ForCausalLM",
}


class _Registry:
    def __init__(self, built_in: dict[str, str]):
        self._infos = {name: ModelInfo(name, target) for name, target in built_in.items()}

    def register_model(self, architecture: str, target: str | type, tasks: tuple[str, ...] = ("generate",)) -> None:
        """Adds or replaces an architecture. `target` is a class, or "module:Class" to import it later."""
        if isinstance(target, str) and target.count(":") != 1:
            raise ConfigError(f"model {architecture!r} must be given as 'module:Class', got {target!r}.")
        self._infos[architecture] = ModelInfo(architecture, target, tasks)

    def supported(self) -> list[str]:
        return sorted(self._infos)

    def resolve_info(self, architectures: Iterable[str]) -> ModelInfo:
        """The first of `architectures` that is known.

        Raises:
            ConfigError: none is; the text lists what is supported and the nearest name.
        """
        asked = list(architectures)
        for name in asked:
            if name in self._infos:
                return self._infos[name]
        near = [n for name in asked for n in difflib.get_close_matches(name, self._infos, n=1, cutoff=0.6)]
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"architecture {', '.join(asked) or '(none)'} is not supported.{hint} "
            f"Supported: {', '.join(self.supported())}."
        )

    def resolve_model_cls(self, architectures: Iterable[str]) -> type:
        """As `resolve_info`, but imports the class."""
        info = self.resolve_info(architectures)
        if not isinstance(info.target, str):
            return info.target
        module, _, name = info.target.partition(":")
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            name = info.architecture
            raise ConfigError(f"architecture {name}: {info.target} cannot be imported: {error}.") from error


ModelRegistry = _Registry(_BUILT_IN)
