"""config.json and generation_config.json -> ModelShape, and what is said when they are wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from kvasir.config.hf import load_generation_config, load_model_shape
from kvasir.config.rope import RopeConfig
from kvasir.errors import ConfigError

BASE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "max_position_embeddings": 2048,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def write(folder: Path, changes: dict[str, Any], generation: dict[str, Any] | None = None) -> Path:
    (folder / "config.json").write_text(json.dumps({**BASE, **changes}))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return folder


def test_defaults_of_a_sparse_file(folder: Path) -> None:
    shape = load_model_shape(write(folder, {}))
    assert (shape.num_kv_heads, shape.head_size, shape.rms_norm_eps, shape.dtype) == (8, 8, 1e-6, "float32")
    assert shape.rope == RopeConfig()
    assert shape.layer_windows == (None,) * 4 and shape.sliding_window is None
    assert not (shape.tie_word_embeddings or shape.attention_bias or shape.mlp_bias)
    assert shape.eos_token_ids == () and shape.bos_token_id is None


@pytest.mark.parametrize(
    "family",
    [
        ("Llama", {"head_dim": 32, "num_key_value_heads": 2, "attention_bias": True, "tie_word_embeddings": True}),
        ("Qwen2", {"num_key_value_heads": 4, "eos_token_id": [5, 6]}),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 3}),
        ("Qwen3", {"rope_theta": 1_000_000.0}),
        ("Qwen3", {"use_sliding_window": True, "sliding_window": 8, "layer_types": ["sliding_attention"] * 4}),
        ("Mistral", {}),
        ("Mistral", {"sliding_window": None, "bos_token_id": 1}),
    ],
    ids=lambda f: f[0],
)
def test_agrees_with_transformers(folder: Path, family: tuple[str, dict[str, Any]]) -> None:
    """The same sparse file, read by both."""
    name, changes = family
    arch = {"architectures": [f"{name}ForCausalLM"], "model_type": name.lower(), "num_key_value_heads": 8}
    write(folder, {**arch, **changes})
    theirs = transformers.AutoConfig.from_pretrained(folder)
    shape = load_model_shape(folder)
    assert shape.num_kv_heads == theirs.num_key_value_heads
    assert shape.head_size == (getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads)
    assert shape.rope.theta == theirs.rope_parameters["rope_theta"]
    assert shape.tie_word_embeddings == theirs.tie_word_embeddings
    assert shape.sliding_window == getattr(theirs, "sliding_window", None)
    types = getattr(theirs, "layer_types", None)
    if types is not None:
        assert [w is not None for w in shape.layer_windows] == [t == "sliding_attention" for t in types]


def test_rope_old_and_new_spelling_agree(folder: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    new = load_model_shape(write(folder, {"rope_parameters": {**scaling, "rope_theta": 5e5}}))
    old = load_model_shape(write(folder, {"rope_theta": 5e5, "rope_scaling": scaling}))
    oldest = load_model_shape(
        write(folder, {"rope_theta": 5e5, "rope_scaling": {**scaling, "rope_type": None, "type": "yarn"}})
    )
    assert new.rope == old.rope == oldest.rope
    assert new.rope.kind == "yarn" and new.rope.attention_factor == pytest.approx(1.1386294)


def test_override_in_the_old_spelling_reaches_a_new_file(folder: Path) -> None:
    write(folder, {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}})
    shape = load_model_shape(folder, {"rope_scaling": {"type": "linear", "factor": 2.0}})
    assert (shape.rope.kind, shape.rope.factor, shape.rope.theta) == ("linear", 2.0, 5e5)


def test_yarn_stretches_the_context(folder: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    assert load_model_shape(write(folder, {"rope_scaling": scaling})).context_length == 8192
    assert load_model_shape(write(folder, {})).context_length == 2048


def test_overrides_replace_and_merge(folder: Path) -> None:
    write(folder, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}})
    shape = load_model_shape(folder, {"num_hidden_layers": 2, "rope_parameters": {"rope_theta": 2e4}})
    assert (shape.num_layers, shape.rope.theta, shape.raw["rope_parameters"]["rope_type"]) == (2, 2e4, "default")


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_dtype_spellings(folder: Path, key: str) -> None:
    assert load_model_shape(write(folder, {key: "bfloat16"})).dtype == "bfloat16"
    assert load_model_shape(write(folder, {key: "torch.float16"})).dtype == "float16"


def test_end_tokens(folder: Path) -> None:
    assert load_model_shape(write(folder, {"eos_token_id": [7, 8, 7]})).eos_token_ids == (7, 8)
    assert load_model_shape(write(folder, {"eos_token_id": 7}, {"eos_token_id": [9, 7]})).eos_token_ids == (9, 7)
    assert load_model_shape(write(folder, {"eos_token_id": 7}, {})).eos_token_ids == (7,)


@pytest.mark.parametrize("key", ["architectures", "vocab_size", "hidden_size", "num_hidden_layers"])
def test_missing_key_is_named_with_its_file(folder: Path, key: str) -> None:
    write(folder, {key: None})
    with pytest.raises(ConfigError, match=f"config.json: the key '{key}' is missing"):
        load_model_shape(folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"vocab_size": "many"}, "vocab_size must be a whole number of at least 1, got 'many'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number of at least 1, got 0"),
        ({"num_key_value_heads": 3}, "multiple of num_key_value_heads"),
        ({"hidden_size": 65}, "head_dim is missing"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be a number above 0"),
        ({"dtype": "float8"}, "dtype 'float8'"),
        ({"architectures": "LlamaForCausalLM"}, "architectures must be a list"),
        ({"eos_token_id": ["x"]}, "eos_token_id"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized"),
        ({"text_config": {"vocab_size": 5}}, "several modalities"),
        ({"sliding_window": 8, "layer_types": ["full_attention"]}, "layer_types must list the 4 layers"),
        ({"sliding_window": 8, "layer_types": ["chunked_attention"] * 4}, "chunked_attention"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'; supported kinds: default, linear"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "rope_scaling.factor must be a number above 0, got 0"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "low_freq_factor is missing"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "each layer type"),
    ],
)
def test_refusals(folder: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_model_shape(write(folder, changes))
    assert text in error.value.message and str(folder) in error.value.message


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b""])
def test_broken_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_model_shape(folder)


def test_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json does not exist"):
        load_model_shape(folder)


def test_generation_defaults(folder: Path) -> None:
    recommended = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05, "max_new_tokens": 64}
    ours = {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.05, "max_tokens": 64}
    assert load_generation_config(write(folder, {}, {**recommended, "do_sample": True, "min_p": None})) == ours
    assert load_generation_config(write(folder, {}, recommended)) == ours
    greedy = load_generation_config(write(folder, {}, {**recommended, "do_sample": False}))
    assert greedy == {"temperature": 0.0, "repetition_penalty": 1.05, "max_tokens": 64}


def test_no_generation_file_means_no_defaults(folder: Path) -> None:
    assert load_generation_config(folder) == {}
