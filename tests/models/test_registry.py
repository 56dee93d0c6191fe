import subprocess
import sys

import pytest

from kvasir.errors import ConfigError
from kvasir.models.registry import _BUILT_IN, ModelRegistry, _Registry


@pytest.fixture
def registry() -> _Registry:
    return _Registry(_BUILT_IN)


@pytest.mark.parametrize("name", ModelRegistry.supported())
def test_every_built_in_can_be_imported(name: str) -> None:
    cls = ModelRegistry.resolve_model_cls([name])
    assert cls.__name__ == name
    assert cls.WEIGHTS


def test_first_known_architecture_wins(registry: _Registry) -> None:
    assert registry.resolve_info(["NobodyKnowsMe", "Qwen3ForCausalLM"]).architecture == "Qwen3ForCausalLM"


def test_unknown_names_the_nearest_and_all(registry: _Registry) -> None:
    with pytest.raises(ConfigError) as error:
        registry.resolve_info(["LlamaForCausalLm"])
    assert "Did you mean LlamaForCausalLM?" in error.value.message
    assert all(name in error.value.message for name in registry.supported())


def test_register_class_or_dotted_name(registry: _Registry) -> None:
    class Mine:
        pass

    registry.register_model("MineForCausalLM", Mine)
    assert registry.resolve_model_cls(["MineForCausalLM"]) is Mine
    registry.register_model("OtherForCausalLM", "kvasir.models.text.llama:LlamaForCausalLM")
    assert registry.resolve_model_cls(["OtherForCausalLM"]).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize("target", ["no.such.module:Class", "kvasir.models.text.llama:NoSuchClass"])
def test_target_that_cannot_be_imported(registry: _Registry, target: str) -> None:
    registry.register_model("MineForCausalLM", target)
    with pytest.raises(ConfigError, match="cannot be imported"):
        registry.resolve_model_cls(["MineForCausalLM"])


def test_target_without_colon(registry: _Registry) -> None:
    with pytest.raises(ConfigError, match="module:Class"):
        registry.register_model("MineForCausalLM", "kvasir.models.text.llama.LlamaForCausalLM")


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("kvasir.models.registry", {"torch", "transformers", "numpy"}),
        ("kvasir.config.hf", {"torch", "transformers", "numpy"}),
        ("kvasir.config.hub", {"torch", "transformers", "huggingface_hub"}),
        ("kvasir.loader.load", {"transformers", "huggingface_hub"}),
    ],
)
def test_imports_stay_light(module: str, absent: set[str]) -> None:
    code = f"import sys, {module}; print(*(m for m in {sorted(absent)} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
