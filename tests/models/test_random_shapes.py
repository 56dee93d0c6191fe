"""Shapes nobody picked by hand: odd vocabularies, one or three KV heads, windows of one token, every rotary kind."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.models.harness import load

torch.set_num_threads(1)


def _config(pick: random.Random, family: str) -> dict[str, Any]:
    kv_heads, head_size = pick.choice([1, 2, 3]), pick.choice([8, 16, 24])
    heads = kv_heads * pick.choice([1, 2, 4])
    config: dict[str, Any] = {
        "vocab_size": pick.randint(50, 300),
        "hidden_size": heads * head_size if family == "Qwen2" else heads * pick.choice([4, 10, 16]),
        "intermediate_size": pick.randint(10, 90),
        "num_hidden_layers": pick.randint(1, 3),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": pick.random() < 0.4,
        "rms_norm_eps": pick.choice([1e-6, 1e-3]),
        "rope_parameters": _rope(pick),
    }
    if family != "Qwen2":
        config["head_dim"] = head_size
    if family in ("Llama", "Qwen3"):
        config["attention_bias"] = pick.random() < 0.5
    if family == "Llama":
        config["mlp_bias"] = pick.random() < 0.5
    if family == "Mistral":
        config["sliding_window"] = pick.choice([None, 1, 5, 30])
    if family.startswith("Qwen") and pick.random() < 0.6:
        config |= {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": pick.randint(0, 3)}
    return config


def _rope(pick: random.Random) -> dict[str, Any]:
    kind = pick.choice(["default", "linear", "llama3", "yarn"])
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": pick.choice([1e4, 1e6])}
    if kind != "default":
        rope["factor"] = 8.0
    if kind in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = 64
    if kind == "llama3":
        rope |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return rope


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3"])
@pytest.mark.parametrize("seed", [11, 12, 13])
@torch.no_grad()
def test_equal_transformers(seed: int, family: str, tmp_path: Path) -> None:
    torch.manual_seed(seed)
    config = _config(random.Random(f"{seed} {family}"), family)
    theirs = getattr(transformers, f"{family}ForCausalLM")._from_config(
        getattr(transformers, f"{family}Config")(**config), attn_implementation="eager"
    )
    for parameter in theirs.eval().parameters():
        if parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.save_pretrained(tmp_path)
    token_ids = torch.randint(config["vocab_size"], (50,))
    expected = theirs(token_ids.unsqueeze(0)).logits[0]
    request = load(tmp_path)
    got = torch.cat([request.feed(part.tolist()) for part in token_ids.split([13, 1, 36])])
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max(), config
