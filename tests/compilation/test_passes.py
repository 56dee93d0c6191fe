"""Each pass: the pattern is found, the numbers stay, a near miss is left alone."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from kvasir.compilation.passes import PASSES, PassManager
from kvasir.config import compile_json
from kvasir.ops import library as library  # registers torch.ops.kvasir_graph
from kvasir.ops.dispatch import TRACEABLE

T, E = 5, 32
BATCH = torch.randn(T, E, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(T, E, generator=torch.Generator().manual_seed(1))
WEIGHT = torch.rand(E, generator=torch.Generator().manual_seed(2)) + 0.5


def norm(x, weight, eps=1e-5):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def wide_norm(x, weight):
    """As transformers writes it: float32 inside, rounded before the weight."""
    wide = x.to(torch.float32)
    wide = wide * torch.rsqrt((wide * wide).mean(-1, keepdim=True) + 1e-6)
    return weight * wide.to(x.dtype)


def after(function, *inputs, passes=None):
    """The graph of `function` after the passes, and how often each found its pattern."""
    with FakeTensorMode() as mode, torch.no_grad():
        fake = [mode.from_tensor(x) for x in inputs]
        module = make_fx(function)(*fake)
        manager = PassManager(TRACEABLE, off=[p.name for p in PASSES if passes and p.name not in passes])
        manager.run(module)
    return module, {name: count for name, count in manager.counts.items() if count}


def ops_of(module):
    return [str(n.target).removesuffix(".default") for n in module.graph.nodes if n.op == "call_function"]


def same(function, *inputs, tolerance=2e-6):
    """Runs both graphs and holds them equal; returns (ops, counts)."""
    module, counts = after(function, *inputs)
    got, want = module(*inputs), function(*inputs)
    for a, b in zip(*(x if isinstance(x, tuple) else (x,) for x in (got, want)), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)
    return ops_of(module), counts


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_a_plain_norm_becomes_one_op(eps):
    ops, counts = same(lambda x, w: norm(x, w, eps), BATCH, WEIGHT)
    assert ops == ["kvasir_graph.rms_norm"] and counts == {"fuse_rms_norm": 1}


def test_so_does_one_that_is_computed_wide():
    inputs = BATCH.bfloat16(), WEIGHT.bfloat16()
    ops, counts = same(wide_norm, *inputs, tolerance=0)
    assert ops == ["kvasir_graph.rms_norm"] and counts == {"fuse_rms_norm": 1}


def test_weight_behind_and_heads():
    ops, _ = same(lambda x, w: (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)) * w, BATCH, WEIGHT)
    assert ops == ["kvasir_graph.rms_norm"]
    ops, _ = same(lambda x, w: norm(x, w), BATCH.view(T, 4, 8), WEIGHT[:8])
    assert ops == ["kvasir_graph.rms_norm"]


NEAR_NORMS = {
    "mean over the tokens": lambda x, w: w * (x * torch.rsqrt(x.pow(2).mean(0, keepdim=True) + 1e-5)),
    "cubes": lambda x, w: w * (x * torch.rsqrt(x.abs().pow(3).mean(-1, keepdim=True) + 1e-5)),
    "another tensor's mean": lambda x, w: w * (x * torch.rsqrt((x + 1).pow(2).mean(-1, keepdim=True) + 1e-5)),
    "layer norm": lambda x, w: (
        w * ((x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5))
    ),
    "no weight": lambda x, w: (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)) * x,
    "square root": lambda x, w: w * (x * torch.sqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)),
}


@pytest.mark.parametrize("name", NEAR_NORMS)
def test_what_only_looks_like_a_norm_stays(name):
    ops, counts = same(NEAR_NORMS[name], BATCH, WEIGHT)
    assert not counts and not any(op.startswith("kvasir") for op in ops)


def test_a_norm_whose_inside_somebody_else_reads_stays():
    def function(x, w):
        normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)
        return w * normed, normed

    assert same(function, BATCH, WEIGHT)[1] == {}


def test_a_norm_that_is_rounded_after_the_weight_stays():
    def function(x, w):
        wide = x.float()
        return (w.float() * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5))).to(x.dtype)

    assert same(function, BATCH.bfloat16(), WEIGHT.bfloat16(), tolerance=0)[1] == {}


def test_a_sum_and_its_norm_become_one_op():
    def function(x, r, w):
        total = x + r
        return norm(total, w), total

    ops, counts = same(function, BATCH, OTHER, WEIGHT)
    assert ops[0] == "kvasir_graph.add_rms_norm" and not any("aten" in op for op in ops)
    assert counts == {"fuse_rms_norm": 1, "fuse_add_rms_norm": 1}


def test_the_sum_is_there_for_who_reads_it_before_the_norm():
    def function(x, r, w):
        total = x + r
        early = total.tanh()
        return norm(total, w) + early, total

    ops, counts = same(function, BATCH, OTHER, WEIGHT)
    assert counts["fuse_add_rms_norm"] == 1 and ops[0] == "kvasir_graph.add_rms_norm"


def test_a_weight_that_is_made_after_the_sum():
    def late(x, r, w):
        total = x + r
        return norm(total, w[0]) + total

    assert same(late, BATCH, OTHER, WEIGHT.repeat(2, 1))[1]["fuse_add_rms_norm"] == 1

    def read_before(x, r, w):
        total = x + r
        return norm(total, w * total.sum(0).tanh()) + total

    assert "fuse_add_rms_norm" not in same(read_before, BATCH, OTHER, WEIGHT)[1]


@pytest.mark.parametrize(
    "total", [lambda x, r: torch.add(x, r, alpha=2), lambda x, r: x + r[:1], lambda x, r: x + 1.0, lambda x, r: x - r]
)
def test_other_sums_before_a_norm_stay(total):
    _, counts = same(lambda x, r, w: norm(total(x, r), w), BATCH, OTHER, WEIGHT)
    assert counts == {"fuse_rms_norm": 1}


def _by_slices(x):
    return F.silu(x[:, : E // 2]) * x[:, E // 2 :]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.silu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
        lambda x: (lambda g, u: u * F.silu(g))(*x.chunk(2, dim=-1)),
        lambda x: (lambda g, u: F.silu(g) * u)(*x.split([E // 2, E // 2], dim=1)),
        _by_slices,
    ],
)
def test_a_gate_becomes_one_op(function):
    ops, counts = same(function, BATCH)
    assert ops == ["kvasir_graph.silu_and_mul"] and counts == {"fuse_silu_and_mul": 1}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.silu(x.chunk(2, -1)[1]) * x.chunk(2, -1)[0],  # the other half is activated
        lambda x: F.gelu(x.chunk(2, -1)[0]) * x.chunk(2, -1)[1],
        lambda x: F.silu(x.chunk(2, -1)[0]) + x.chunk(2, -1)[1],
        lambda x: F.silu(x.chunk(4, -1)[0]) * x.chunk(4, -1)[1],  # quarters
        lambda x: (lambda g: F.silu(g) * g)(x.chunk(2, -1)[0]),  # the same half twice
        lambda x: F.silu(x[:, : E // 2]) * x[:, E // 2 - 1 : -1],  # one column off
        lambda x: F.silu(x[: T // 2]) * x[T // 2 : -1],  # halves of the tokens
    ],
)
def test_what_only_looks_like_a_gate_stays(function):
    assert same(function, BATCH)[1] == {}


def test_passes_are_switched_by_name_and_by_their_op():
    function = lambda x, r, w: norm(x + r, w)
    module, counts = after(function, BATCH, OTHER, WEIGHT, passes=["fuse_rms_norm"])
    assert counts == {"fuse_rms_norm": 1} and "kvasir_graph.rms_norm" in ops_of(module)
    assert not PassManager(opaque_ops=()).counts
    assert set(PassManager(["silu_and_mul"]).counts) == {"fuse_silu_and_mul"}


def test_the_tables_agree_with_the_options():
    assert tuple(p.name for p in PASSES) == compile_json.PASSES
    assert TRACEABLE == compile_json.OPS
    assert {p.op for p in PASSES} <= set(TRACEABLE)


@pytest.mark.parametrize("op", TRACEABLE)
def test_ops_and_their_fakes_agree(op):
    square, gate = torch.randn(E, E), torch.randn(2 * E, E)
    inputs = {
        "rms_norm": (BATCH, WEIGHT, 1e-6),
        "add_rms_norm": (BATCH, OTHER, WEIGHT, 1e-6),
        "silu_and_mul": (BATCH,),
        "linear": (BATCH, square, WEIGHT),
        "gated_linear": (BATCH, gate),
        "norm_linear": (BATCH, OTHER, WEIGHT, 1e-6, square, WEIGHT),
        "norm_gated_linear": (BATCH, OTHER, WEIGHT, 1e-6, gate),
    }[op]
    torch.library.opcheck(
        getattr(torch.ops.kvasir_graph, op).default, inputs, test_utils=("test_schema", "test_faketensor")
    )
