"""Every family's logits equal transformers' in float32: prompt at once, token by token, and in chunks."""

import pytest
import torch

from tests.fixtures import CHECKPOINTS, VOCAB, checkpoint, reference_model
from tests.models.harness import load, make_build

torch.set_num_threads(1)
LENGTH = 60  # beyond every window of the checkpoints


def _prompt(seed: int) -> list[int]:
    return torch.randint(8, VOCAB, (LENGTH,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def _expected(name: str, token_ids: list[int]) -> torch.Tensor:
    return reference_model(name)(torch.tensor([token_ids])).logits[0]


def _assert_equal(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert torch.equal(got.argmax(-1), expected.argmax(-1))


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("seed", [1, 2])
def test_whole_prompt(name: str, seed: int) -> None:
    prompt = _prompt(seed)
    _assert_equal(load(checkpoint(name)).feed(prompt), _expected(name, prompt))


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_token_by_token(name: str) -> None:
    prompt, request = _prompt(3), load(checkpoint(name))
    _assert_equal(torch.cat([request.feed([token]) for token in prompt]), _expected(name, prompt))


@pytest.mark.parametrize("chunk", [7, 16])
@pytest.mark.parametrize("name", ["llama", "mistral-swa", "qwen3"])
def test_in_chunks(name: str, chunk: int) -> None:
    prompt, request = _prompt(4), load(checkpoint(name))
    parts = [request.feed(prompt[i : i + chunk]) for i in range(0, LENGTH, chunk)]
    _assert_equal(torch.cat(parts), _expected(name, prompt))


def test_windows_matter() -> None:
    """The window tests above would pass for nothing if the window did not change the answer."""
    prompt = _prompt(5)
    windowed = load(checkpoint("mistral-swa")).feed(prompt)
    full = load(checkpoint("llama")).feed(prompt)  # the same weights up to head_dim's spelling
    torch.testing.assert_close(windowed[:32], full[:32])
    assert (windowed[40:] - full[40:]).abs().max() > 0.01


def test_sharded_equals_single_bit_for_bit() -> None:
    assert len(list(checkpoint("llama-sharded").glob("*.safetensors"))) > 1
    prompt = _prompt(6)
    assert torch.equal(load(checkpoint("llama-sharded")).feed(prompt), load(checkpoint("llama")).feed(prompt))


def test_tied_embeddings_are_one_tensor() -> None:
    model = load(checkpoint("llama-tied")).model
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(model.named_parameters())


def test_half_precision_stays_near() -> None:
    prompt = _prompt(7)
    got = load(checkpoint("qwen3"), dtype=torch.bfloat16).feed(prompt)
    expected = _expected("qwen3", prompt)
    assert got.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(got.float(), expected).min() > 0.99


def test_fewer_positions_when_the_engine_asks_for_fewer() -> None:
    request = load(checkpoint("llama"), max_model_len=LENGTH)
    assert request.model.model.rotary.cos_sin.shape[0] == LENGTH
    prompt = _prompt(8)
    _assert_equal(request.feed(prompt), _expected("llama", prompt))


def test_linear_method_is_asked_once_for_each_projection() -> None:
    asked: list[str] = []
    plain = make_build().linear_method

    def spy(prefix: str):
        asked.append(prefix)
        return plain(prefix)

    load(checkpoint("llama"), linear_method=spy)
    expected = [
        f"model.layers.{i}.{m}"
        for i in range(2)
        for m in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    ]
    assert asked == expected
