"""Trace, split, compile: any number of tokens, layers that are alike compiled once, and a way out when it fails."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from kvasir.compilation import forward as compiling
from kvasir.compilation.backends import check_guards
from kvasir.compilation.cache import MAX_FOLDERS, code_hash, make_folder
from kvasir.compilation.errors import CannotCompile
from kvasir.compilation.forward import CompileSettings, compile_forward
from kvasir.ops.dispatch import TRACEABLE, traced_ops

E, V, CPU = 32, 50, torch.device("cpu")


@dataclass(frozen=True)
class Turn:
    """A step's data and a constant, as attention is given them."""

    positions: torch.Tensor
    scale: float
    shift: torch.Tensor | None = None


class Mixer(nn.Module):
    """Stands for attention: needs to know what no graph may hold, and counts its calls."""

    context: Counter = Counter()

    @staticmethod
    def result_shape(q, k, turn, last=None):
        return (q.shape[0] if last is None else last.shape[0], E)

    def forward(self, q: torch.Tensor, k: torch.Tensor, turn: Turn, last: torch.Tensor | None = None) -> torch.Tensor:
        Mixer.context["calls"] += 1
        assert not torch.compiler.is_compiling() and type(q) is torch.Tensor, "it was traced"
        shift = 0 if turn.shift is None else turn.shift
        mixed = (q + k.mean(0) * turn.scale + turn.positions[:, None] * 0.01 + shift).t().contiguous().t()
        return mixed if last is None else mixed[last]


class Layer(nn.Module):
    def __init__(self, shifted: bool):
        super().__init__()
        self.qk, self.out, self.up = nn.Linear(E, 2 * E), nn.Linear(E, E), nn.Linear(E, 4 * E, bias=False)
        self.down = nn.Linear(2 * E, E, bias=False)
        self.norms = nn.Parameter(torch.rand(2, E) + 0.5)
        self.shift = nn.Parameter(torch.rand(E)) if shifted else None
        self.mixer = Mixer()

    def forward(self, positions, x, residual, last=None):
        residual = x + residual
        q, k = self.qk(norm(residual, self.norms[0])).split(E, -1)
        mixed = self.mixer(q, k, Turn(positions, 0.5, self.shift), last)
        residual = self.out(mixed) + (residual if last is None else residual[last])
        gate, up = self.up(norm(residual, self.norms[1])).chunk(2, -1)
        return self.down(F.silu(gate) * up), residual


def norm(x, weight):
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Plain(nn.Module):
    """A decoder in plain torch, as a plugin may bring it."""

    def __init__(self, num_layers: int = 3, shifted: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(V, E)
        self.layers = nn.ModuleList(Layer(shifted) for _ in range(num_layers))
        self.last = nn.Parameter(torch.rand(E))
        self.requires_grad_(False)

    def forward(self, ids, positions, last=None):
        x = self.table(ids)
        residual = torch.zeros_like(x)
        for layer in self.layers[:-1]:
            x, residual = layer(positions, x, residual)
        x, residual = self.layers[-1](positions, x, residual, last)
        return norm(x + residual, self.last)


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    """What is logged."""
    found: list[str] = []
    for level in ("info", "warning"):
        monkeypatch.setattr(compiling.logger, level, lambda text, *values: found.append(text % values))
    return found


def step(num_tokens: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, V, (num_tokens,), generator=generator), torch.arange(num_tokens)


def compiled(model, backend="eager", opaque=TRACEABLE, folder=Path("unused"), **more):
    mixers = [m for m in model.modules() if isinstance(m, Mixer)]
    return compile_forward(model, mixers, CPU, CompileSettings(backend, opaque, folder, **more))


@pytest.mark.parametrize(
    "shifted, how",
    [
        (False, {}),
        (True, {}),
        (False, {"backend": "inductor"}),
        pytest.param(True, {"backend": "inductor", "opaque": ()}, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_tokens_gives_what_it_gave(shifted, how, tmp_path):
    model = Plain(shifted=shifted)
    sizes = [1, 2, 3, 37, 64, 1, 500]
    want = [model(*step(n, n)) for n in sizes]
    assert compiled(model, folder=tmp_path, **how) is not None
    with torch.inference_mode():
        for n, before in zip(sizes, want, strict=True):
            torch.testing.assert_close(model.forward(*step(n, n)), before, atol=1e-5, rtol=1e-5)
            for wanted in ([], [0], [n - 1], list(range(0, n, 2))):
                last = torch.tensor(wanted, dtype=torch.int64)
                got = model.forward(*step(n, n), last)
                torch.testing.assert_close(got, before[last], atol=1e-5, rtol=1e-5)


def test_layers_that_are_alike_are_compiled_once():
    few, many = compiled(Plain(2)), compiled(Plain(9))
    # Before the first mixer, between two, after the last one for all tokens, and for some of them.
    assert few.num_pieces == many.num_pieces == 4


def test_a_mixer_is_called_once_a_layer_and_never_traced():
    model = Plain(4)
    Mixer.context.clear()
    compiled(model)
    assert not Mixer.context
    model.forward(*step(5))
    assert Mixer.context["calls"] == 4


def test_weights_may_be_written_in_place_afterwards():
    model, other = Plain(), Plain()
    compiled(model)
    for parameter in (*model.parameters(), *other.parameters()):
        parameter.mul_(1.1)
    torch.testing.assert_close(model.forward(*step(6)), other(*step(6)), atol=1e-5, rtol=1e-5)


def test_plain_code_is_fused_by_the_passes_and_they_are_logged(lines):
    compiled(Plain(3))
    (line,) = lines
    assert "8 pieces, 4 of them different" in line
    assert "fuse_rms_norm 7, fuse_add_rms_norm 7, fuse_silu_and_mul 3" in line


def test_a_dump_shows_the_graphs(tmp_path):
    compiled(Plain(3), dump=tmp_path / "graphs")
    texts = [f.read_text() for f in sorted((tmp_path / "graphs").iterdir())]
    assert [t.splitlines()[0] for t in texts] == [f"# used {n} times" for n in (2, 4, 1, 1)]
    assert "torch.ops.kvasir_graph.add_rms_norm" in texts[1]


class Brancher(Plain):
    def forward(self, ids, positions, last=None):
        hidden = super().forward(ids, positions, last)
        return hidden if ids.shape[0] > 8 else hidden * 2


class Counts(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, ids, positions, last=None):
        self.seen += 1
        return super().forward(ids, positions, last)


class Reader(Plain):
    def forward(self, ids, positions, last=None):
        return super().forward(ids, positions, last) * int(ids[0])


@pytest.mark.parametrize(
    "kind, why", [(Brancher, "depends on the number of tokens"), (Counts, "writes in place"), (Reader, "")]
)
def test_what_cannot_be_compiled_runs_as_it_is(kind, why, lines):
    model = kind()
    want = kind()(*step(5))
    assert compiled(model) is None
    (line,) = lines
    assert line.startswith("not compiled, the model runs as it is: ") and why in line
    torch.testing.assert_close(model.forward(*step(5)), want)


def test_code_that_fails_when_it_first_runs_is_taken_back(monkeypatch, lines):
    def broken(piece, device):
        def run(inputs):
            raise RuntimeError("no such instruction\nand more")

        return run

    monkeypatch.setattr(compiling, "eager", broken)
    model = Plain()
    want = model(*step(5))
    assert compiled(model) is not None
    torch.testing.assert_close(model.forward(*step(5)), want)
    assert lines[-1].endswith("RuntimeError: no such instruction")
    assert "forward" not in model.__dict__


def test_either_form_may_fail_when_it_first_runs(lines):
    model = Plain()
    want = model(*step(5))
    made = compiled(model)
    torch.testing.assert_close(model.forward(*step(5)), want, atol=1e-5, rtol=1e-5)
    made._only_last = None
    last = torch.tensor([1, 4])
    torch.testing.assert_close(model.forward(*step(5), last), want[last])
    assert "not compiled" in lines[-1] and "forward" not in model.__dict__


def test_tracing_and_each_piece_are_progress(monkeypatch, tmp_path):
    beats: list[int] = []
    monkeypatch.setattr(compiling, "inductor", lambda piece, fake_mode, cache, options: print)
    model = Plain()
    mixers = [m for m in model.modules() if isinstance(m, Mixer)]
    settings = CompileSettings("inductor", TRACEABLE, tmp_path)
    made = compile_forward(model, mixers, CPU, settings, progress=lambda: beats.append(1))
    assert len(beats) == 1 + made.num_pieces == 5


def test_code_for_some_numbers_of_tokens_only_is_refused():
    environment = ShapeEnv(specialize_zero_one=False)
    tokens = FakeTensorMode(shape_env=environment).from_tensor(
        torch.zeros(37, 2),
        symbolic_context=StatelessSymbolicContext(
            dynamic_sizes=[DimDynamic.DYNAMIC, DimDynamic.STATIC], constraint_sizes=[None, None]
        ),
    )
    assert tokens.shape[0] >= 2 and tokens.shape[0] * 1024 < 2**31
    check_guards(environment)
    assert tokens.shape[0] < 64
    with pytest.raises(CannotCompile, match="for some numbers of tokens only .* < 64"):
        check_guards(environment)


def test_a_cache_that_cannot_be_written_is_no_reason_not_to_start(tmp_path, lines):
    (tmp_path / "file").touch()
    model = Plain()
    want = model(*step(5))
    assert compiled(model, backend="inductor", folder=tmp_path / "file" / "folder") is None
    assert "NotADirectoryError" in lines[-1]
    torch.testing.assert_close(model.forward(*step(5)), want)


def test_folders_used_longest_ago_are_removed(tmp_path):
    for i in range(MAX_FOLDERS + 5):
        make_folder(tmp_path / f"{i:02d}")
        os.utime(tmp_path / f"{i:02d}", (i, i))
    make_folder(tmp_path / "04")  # used again
    left = sorted(f.name for f in tmp_path.iterdir())
    assert len(left) == MAX_FOLDERS and "04" in left and "03" not in left and f"{MAX_FOLDERS + 4:02d}" in left


def test_the_code_s_hash_is_of_what_the_graph_comes_from():
    from kvasir.layers.norm import RMSNorm

    norm_only = nn.Sequential(RMSNorm(E, 1e-6, torch.float32, CPU))
    assert code_hash(Plain()) == code_hash(Plain(5)) != code_hash(norm_only)


def test_ops_are_themselves_outside_of_a_trace():
    from kvasir.ops.dispatch import implementation

    eager = implementation("rms_norm", CPU)
    with traced_ops(["rms_norm"]):
        assert implementation("rms_norm", CPU) is torch.ops.kvasir_graph.rms_norm.default
        assert implementation("silu_and_mul", CPU).__module__ == "kvasir.ops.reference.activation"
    assert implementation("rms_norm", CPU) is eager
