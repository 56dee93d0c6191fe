"""A model cut to one layer of each kind, and whole again."""

import torch

from kvasir.attention.reference import ReferenceBackend
from kvasir.config.hf import load_model_shape
from kvasir.loader.load import build_model
from kvasir.models.common.few_layers import few_layers
from kvasir.models.interface import ModelBuild
from tests.fixtures import checkpoint


def built(**overrides: object) -> torch.nn.Module:
    shape = load_model_shape(checkpoint("qwen3"), overrides)
    return build_model(shape, ModelBuild(torch.float32, torch.device("cpu"), ReferenceBackend, max_model_len=64))


def indices(model: torch.nn.Module) -> list[int]:
    return [layer.self_attn.attn.layer_index for layer in model.model.layers]


def test_the_first_the_last_and_one_between() -> None:
    model = built(num_hidden_layers=6)
    names = [name for name, _ in model.named_parameters()]
    with few_layers(model):
        assert indices(model) == [0, 1, 5]
    assert indices(model) == list(range(6))
    assert [name for name, _ in model.named_parameters()] == names


def test_layers_with_a_window_are_another_kind() -> None:
    types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    model = built(num_hidden_layers=5, layer_types=types, use_sliding_window=True, sliding_window=16)
    with few_layers(model):
        assert indices(model) == [0, 1, 2, 4]


def test_short_models_stay_whole() -> None:
    for count in (1, 2):
        model = built(num_hidden_layers=count)
        with few_layers(model):
            assert indices(model) == list(range(count))
