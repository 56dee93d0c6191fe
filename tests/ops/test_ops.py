"""Every op through its face on CPU, against float64 and against transformers' arithmetic."""

import pytest
import torch

from kvasir import ops
from kvasir.ops import dispatch
from kvasir.ops.reference import kv_write as kv_write_reference
from kvasir.ops.reference import norm as norm_reference
from kvasir.ops.reference import rope as rope_reference
from kvasir.platforms.native import native_library

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def same_up_to_order(got: torch.Tensor, want: torch.Tensor) -> None:
    """The same numbers, summed in another order or with another exp: the last place may differ, seldom in 16 bits."""
    step = 2e-6 if got.dtype == torch.float32 else torch.finfo(got.dtype).eps
    torch.testing.assert_close(got, want, atol=1e-30, rtol=step)
    if got.dtype != torch.float32:
        assert (got != want).sum() <= max(1, got.numel() // 100)


def near(got: torch.Tensor, want: torch.Tensor) -> None:
    tolerance = TOLERANCE[got.dtype]
    torch.testing.assert_close(got.double(), want.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 64), (7, 96), (5, 3, 128), (0, 64)])
@pytest.mark.parametrize("seed", range(2))
def test_rms_norm(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> None:
    torch.manual_seed(seed)
    x, weight = (torch.randn(*shape) * 3).to(dtype), torch.randn(shape[-1]).to(dtype)
    got = ops.rms_norm(x, weight, 1e-6)
    near(got, norm_reference.rms_norm(x.double(), weight.double(), 1e-6))
    same_up_to_order(got, norm_reference.rms_norm(x, weight, 1e-6))  # so it rounds where the reference does


def test_rms_norm_of_a_strided_view() -> None:
    wide = torch.randn(6, 4, 40)
    x = wide[:, 1:3, 8:]  # [6, 2, 32], heads of a packed projection
    weight = torch.randn(32)
    near(ops.rms_norm(x, weight, 1e-5), norm_reference.rms_norm(x.double(), weight.double(), 1e-5))


def test_rms_norm_equals_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.qwen3.modeling_qwen3")
    for dtype in DTYPES:
        layer = modeling.Qwen3RMSNorm(48, eps=1e-6).to(dtype)
        torch.nn.init.normal_(layer.weight)
        x = (torch.randn(9, 48) * 4).to(dtype)
        same_up_to_order(ops.rms_norm(x, layer.weight, 1e-6), layer(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm(dtype: torch.dtype) -> None:
    x, residual, weight = torch.randn(5, 32).to(dtype), torch.randn(5, 32).to(dtype), torch.randn(32).to(dtype)
    before = x.clone(), residual.clone()
    normed, new_residual = ops.add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(new_residual, before[0] + before[1])
    assert torch.equal(normed, ops.rms_norm(new_residual, weight, 1e-6))
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [0, 1, 13])
def test_silu_and_mul(dtype: torch.dtype, tokens: int) -> None:
    x = (torch.randn(tokens, 2 * 24) * 3).to(dtype)
    gate, up = x.double().chunk(2, -1)
    got = ops.silu_and_mul(x)
    near(got, torch.sigmoid(gate) * gate * up)
    same_up_to_order(got, torch.nn.functional.silu(x[:, :24]) * x[:, 24:])


def rope_inputs(
    dtype: torch.dtype, rot_dim: int, head_size: int = 32, tokens: int = 11
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    inverse = 1.0 / 10000 ** (torch.arange(0, rot_dim, 2).float() / rot_dim)
    angles = torch.arange(300).float()[:, None] * inverse
    cache = torch.cat((angles.cos(), angles.sin()), dim=-1)
    packed = torch.randn(tokens, 6, head_size).to(dtype)  # heads of a packed projection: 4 of q, 2 of k
    return torch.randint(0, 300, (tokens,)), packed[:, :4], packed[:, 4:], cache


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rot_dim", [32, 16, 2])
@pytest.mark.parametrize("tokens", [0, 1, 11])
def test_apply_rope(dtype: torch.dtype, rot_dim: int, tokens: int) -> None:
    positions, q, k, cache = rope_inputs(dtype, rot_dim, tokens=tokens)
    before = q.clone(), k.clone()
    got = ops.apply_rope(positions, q, k, cache)
    oracle = rope_reference.apply_rope(positions, q.double(), k.double(), cache)
    same = rope_reference.apply_rope(positions, q, k, cache)
    for mine, want, equal, dense in zip(got, oracle, same, before, strict=True):
        near(mine, want)
        assert torch.equal(mine, equal)
        assert torch.equal(mine[..., rot_dim:], dense[..., rot_dim:]), "dimensions past rot_dim pass through"
    assert torch.equal(q, before[0])
    assert torch.equal(k, before[1])


def test_apply_rope_equals_transformers_bit_for_bit_in_float32() -> None:
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    positions, q, k, cache = rope_inputs(torch.float32, 32)
    cos, sin = cache[positions].chunk(2, -1)
    cos, sin = torch.cat((cos, cos), -1)[None], torch.cat((sin, sin), -1)[None]
    want_q, want_k = modeling.apply_rotary_pos_emb(q.transpose(0, 1)[None], k.transpose(0, 1)[None], cos, sin)
    got_q, got_k = ops.apply_rope(positions, q, k, cache)
    assert torch.equal(got_q, want_q[0].transpose(0, 1))
    assert torch.equal(got_k, want_k[0].transpose(0, 1))


@pytest.mark.parametrize("layout", ["split", "packed"])
def test_reshape_and_cache(layout: str) -> None:
    """Only the mapped slots change, whatever the cache's strides."""
    whole = torch.zeros(2, 5, 4, 3, 8) if layout == "split" else torch.zeros(5, 4, 2, 3, 8)
    keys, values = whole.unbind(0 if layout == "split" else 2)
    key, value = torch.randn(4, 3, 8), torch.randn(4, 3, 8)
    ops.reshape_and_cache(key, value, keys, values, torch.tensor([7, -1, 19, 0]))
    want_keys, want_values = torch.zeros(20, 3, 8), torch.zeros(20, 3, 8)
    for token, slot in ((0, 7), (2, 19), (3, 0)):
        want_keys[slot], want_values[slot] = key[token], value[token]
    assert torch.equal(keys.reshape(20, 3, 8), want_keys)
    assert torch.equal(values.reshape(20, 3, 8), want_values)
    kv_write_reference.reshape_and_cache(key[:0], value[:0], keys, values, torch.tensor([], dtype=torch.int64))
    assert torch.equal(keys.reshape(20, 3, 8), want_keys)


def test_wrong_shapes_are_refused() -> None:
    x = torch.randn(2, 8)
    with pytest.raises(ValueError, match="rms_norm"):
        ops.rms_norm(x, torch.ones(4), 1e-6)
    with pytest.raises(ValueError, match="add_rms_norm"):
        ops.add_rms_norm(x, torch.randn(3, 8), torch.ones(8), 1e-6)
    with pytest.raises(ValueError, match="silu_and_mul"):
        ops.silu_and_mul(torch.randn(2, 7))
    with pytest.raises(ValueError, match="apply_rope"):
        ops.apply_rope(torch.zeros(2).long(), torch.randn(2, 1, 4), torch.randn(2, 1, 4), torch.randn(9, 6))
    with pytest.raises(ValueError, match="reshape_and_cache"):
        cache = torch.zeros(2, 4, 1, 8)
        ops.reshape_and_cache(torch.randn(2, 1, 4), torch.randn(2, 1, 4), cache, cache, torch.zeros(2).long())
    with pytest.raises(ValueError, match="multiple of K"):
        cache = torch.zeros(2, 4, 2, 8)
        lens = torch.zeros(2, dtype=torch.int32)
        ops.paged_attention(torch.randn(1, 3, 8), cache, cache, lens, lens[:1], lens[None], lens[:1], 1.0)


def test_every_op_has_a_decision_and_a_reason_on_every_platform() -> None:
    for platform in dispatch.PLATFORMS:
        lines = ops.choices(platform)
        assert {line.op for line in lines} == set(dispatch.TABLE)
        assert all(line.why and ":" in line.implementation for line in lines)
    chosen = {c.op: c.implementation for c in ops.choices("cpu")}["rms_norm"]
    assert chosen == ("cpp.norm:rms_norm" if native_library().handle else "cpu.norm:rms_norm")


def test_an_implementation_that_cannot_be_imported_gives_way_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"cpu": ("kvasir.ops.nowhere:rms_norm",), "native": ("kvasir.ops.reference.norm:rms_norm",)}
    monkeypatch.setitem(dispatch.TABLE, "rms_norm", row)
    dispatch._decide.cache_clear()
    try:
        choice = next(c for c in ops.choices("cpu") if c.op == "rms_norm")
        assert choice.implementation == "reference.norm:rms_norm"
        assert "nowhere" in choice.why
    finally:
        dispatch._decide.cache_clear()
