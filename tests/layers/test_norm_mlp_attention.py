import pytest
import torch
from torch.nn import functional as F

from kvasir.attention.forward_context import ForwardContext, forward_context
from kvasir.distributed.groups import TensorParallelGroup
from kvasir.errors import ConfigError
from kvasir.layers.attention import Attention
from kvasir.layers.mlp import GatedMLP
from kvasir.layers.norm import RMSNorm
from kvasir.quantization.none import UnquantizedLinearMethod

CPU, F32 = torch.device("cpu"), torch.float32


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("lead", [(5,), (5, 3)])
def test_rms_norm(seed: int, lead: tuple[int, ...]) -> None:
    torch.manual_seed(seed)
    norm = RMSNorm(16, 1e-5, F32, CPU)
    norm.weight.data.normal_()
    x = torch.randn(*lead, 16)
    torch.testing.assert_close(norm(x), F.rms_norm(x, (16,), norm.weight, 1e-5))


def test_add_returns_the_norm_and_the_sum() -> None:
    norm = RMSNorm(16, 1e-5, F32, CPU)
    norm.weight.data.normal_()
    x, residual = torch.randn(5, 16), torch.randn(5, 16)
    total = x + residual
    y, new_residual = norm.add(x, residual)
    torch.testing.assert_close(new_residual, total)
    torch.testing.assert_close(y, F.rms_norm(total, (16,), norm.weight, 1e-5))


def _mlp(activation: str) -> GatedMLP:
    method = UnquantizedLinearMethod()
    return GatedMLP(8, 12, activation, False, lambda name: method, F32, CPU, TensorParallelGroup())


def test_mlp() -> None:
    mlp = _mlp("silu")
    for parameter in mlp.parameters():
        parameter.data.normal_()
    x = torch.randn(5, 8)
    gate, up = mlp.gate_up_proj.weight.chunk(2)
    expected = F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), mlp.down_proj.weight)
    torch.testing.assert_close(mlp(x), expected)


def test_mlp_refuses_other_activations() -> None:
    with pytest.raises(ConfigError, match="'gelu'"):
        _mlp("gelu")


class _Recorder:
    """A backend that only notes with what it was made and called."""

    made: dict
    calls: list

    @classmethod
    def make_impl(cls, **kwargs):
        cls.made, cls.calls = kwargs, []
        return cls()

    def forward(self, q, k, v, kv_cache, metadata, transform, last):
        self.calls.append((kv_cache, metadata))
        return q


def test_attention_finds_its_own_cache_and_the_metadata() -> None:
    layer = Attention(1, 4, 2, 16, _Recorder, sliding_window=7)
    assert _Recorder.made["scale"] == 0.25 and _Recorder.made["sliding_window"] == 7
    caches, metadata = [torch.zeros(1), torch.ones(1)], object()
    q = torch.randn(3, 4, 16)
    with forward_context(ForwardContext(metadata, caches)):
        assert layer(q, q[:, :2], q[:, :2]) is q
    assert _Recorder.calls[0][0] is caches[1] and _Recorder.calls[0][1] is metadata


def test_attention_outside_of_a_forward_pass_says_so() -> None:
    layer = Attention(0, 4, 2, 16, _Recorder)
    with pytest.raises(RuntimeError, match="forward_context"):
        layer(*[torch.zeros(1, 4, 16)] * 3)
