"""The cosine and sine tables equal transformers', for every kind and for values other than the usual ones."""

import pytest
import torch
import transformers
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from kvasir.config.rope import parse_rope
from kvasir.layers.rotary import RotaryEmbedding, cos_sin_table

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}
SETTINGS = [
    {"rope_type": "default", "rope_theta": 10_000.0},
    {"rope_type": "default", "rope_theta": 1_000_000.0},
    {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    {"rope_type": "llama3", "rope_theta": 500_000.0, **LLAMA3},
    {"rope_type": "llama3", "rope_theta": 10_000.0, **LLAMA3, "factor": 32.0, "low_freq_factor": 2.0},
    {"rope_type": "yarn", "rope_theta": 1_000_000.0, **YARN},
    {"rope_type": "yarn", "rope_theta": 10_000.0, **YARN, "beta_fast": 16.0, "beta_slow": 2.0},
    {"rope_type": "yarn", "rope_theta": 10_000.0, **YARN, "attention_factor": 1.5, "truncate": False},
    {"rope_type": "yarn", "rope_theta": 10_000.0, **YARN, "factor": 40.0, "mscale": 1.2, "mscale_all_dim": 0.8},
    {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": 16},
]


@pytest.mark.parametrize("head_dim", [16, 128])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s['rope_type']}-{len(s)}-{s['rope_theta']:g}")
def test_equal_transformers(settings: dict, head_dim: int) -> None:
    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim, max_position_embeddings=131072,
        rope_parameters=dict(settings),
    )  # fmt: skip
    positions = torch.tensor([[0, 1, 2, 77, 4095, 8191, 8192, 40_000]])
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, dtype=torch.float32), positions)  # [1, P, D], halves equal
    rope = parse_rope({"rope_parameters": settings}, 131072, "config.json")
    table = cos_sin_table(rope, head_dim, 40_001)[positions[0]]  # [P, D]: cosines, sines
    half = head_dim // 2
    # An angle of 40,000 has a float32 step of 0.004, so that far out the two may differ by about that.
    for ours, theirs in ((table[:, :half], cos[0, :, :half]), (table[:, half:], sin[0, :, :half])):
        torch.testing.assert_close(ours[:4], theirs[:4], rtol=0, atol=2e-5)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=8e-3)


def test_table_is_float32_and_no_part_of_the_weights() -> None:
    rotary = RotaryEmbedding(parse_rope({}, 64, "config.json"), 16, 64, torch.device("cpu"))
    assert rotary.cos_sin.dtype == torch.float32 and rotary.cos_sin.shape == (64, 16)
    assert not rotary.state_dict() and not list(rotary.parameters())


@pytest.mark.parametrize("seed", range(3))
def test_partial_rotation_passes_the_rest_through(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rope = parse_rope({"rope_theta": 100.0, "partial_rotary_factor": 0.5}, 64, "config.json")
    rotary = RotaryEmbedding(rope, 16, 64, torch.device("cpu"))
    q, k = torch.randn(5, 4, 16, generator=generator), torch.randn(5, 2, 16, generator=generator)
    turned_q, turned_k = rotary(torch.arange(3, 8))(q, k)
    assert torch.equal(turned_q[..., 8:], q[..., 8:]) and torch.equal(turned_k[..., 8:], k[..., 8:])
    assert not torch.allclose(turned_q[..., :8], q[..., :8])
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))  # a rotation keeps lengths
