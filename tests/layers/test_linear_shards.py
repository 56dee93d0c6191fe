"""What each of several workers would load and compute, joined, is what one worker computes.

The group refuses to be more than one yet, so the workers here are played one after the other by a group that only
knows its numbers; their collectives are done by the test.
"""

import pytest
import torch
from torch.nn import functional as F

from kvasir.distributed.groups import TensorParallelGroup
from kvasir.distributed.shard import Span, split, split_kv_heads
from kvasir.errors import ConfigError
from kvasir.layers.embedding import LMHead, VocabParallelEmbedding
from kvasir.layers.linear import (
    ColumnParallelLinear,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    ReplicatedLinear,
    RowParallelLinear,
)
from kvasir.quantization.none import UnquantizedLinearMethod
from tests.models.harness import PlayedGroup

CPU, F32 = torch.device("cpu"), torch.float32
WORLD = 2


@pytest.fixture(params=[0, 1, 2])
def random(request: pytest.FixtureRequest) -> torch.Generator:
    return torch.Generator().manual_seed(request.param)


def fill(parameter: torch.nn.Parameter, **sources: torch.Tensor) -> None:
    """As the loader does."""
    for part, source in sources.items():
        piece = parameter.pieces["" if part == "whole" else part]
        assert piece.source_shape == source.shape
        piece.target(parameter).copy_(source[piece.source_index])


def test_column_then_row(random: torch.Generator) -> None:
    x, up, down = (torch.randn(*s, generator=random) for s in ((5, 8), (12, 8), (8, 12)))
    up_bias, down_bias = torch.randn(12, generator=random), torch.randn(8, generator=random)
    total = torch.zeros(5, 8)
    for rank in range(WORLD):
        group = PlayedGroup(rank, WORLD)
        column = ColumnParallelLinear(8, 12, True, UnquantizedLinearMethod(), F32, CPU, group)
        row = RowParallelLinear(12, 8, True, UnquantizedLinearMethod(), F32, CPU, group)
        fill(column.weight, whole=up), fill(column.bias, whole=up_bias)
        fill(row.weight, whole=down), fill(row.bias, whole=down_bias)
        total += row(column(x))
    torch.testing.assert_close(total, F.linear(F.linear(x, up, up_bias), down, down_bias))


def test_merged(random: torch.Generator) -> None:
    x, gate, up = (torch.randn(*s, generator=random) for s in ((5, 8), (12, 8), (12, 8)))
    gates, ups = [], []
    for rank in range(WORLD):
        layer = MergedColumnParallelLinear(
            8, {"gate": 12, "up": 12}, False, UnquantizedLinearMethod(), F32, CPU, PlayedGroup(rank, WORLD)
        )
        fill(layer.weight, gate=gate, up=up)
        g, u = layer(x).chunk(2, dim=-1)
        gates.append(g), ups.append(u)
    torch.testing.assert_close(torch.cat(gates, -1), F.linear(x, gate))
    torch.testing.assert_close(torch.cat(ups, -1), F.linear(x, up))


@pytest.mark.parametrize(("world", "kv_heads"), [(1, 2), (2, 2), (4, 2), (4, 1), (4, 4)])
def test_qkv_heads(random: torch.Generator, world: int, kv_heads: int) -> None:
    heads, size = 4, 3
    x, q = torch.randn(5, 8, generator=random), torch.randn(heads * size, 8, generator=random)
    k, v = (torch.randn(kv_heads * size, 8, generator=random) for _ in range(2))
    queries = []
    for rank in range(world):
        layer = QKVParallelLinear(
            8, size, heads, kv_heads, False, UnquantizedLinearMethod(), F32, CPU, PlayedGroup(rank, world)
        )
        fill(layer.weight, q=q, k=k, v=v)
        mine_q, mine_k, mine_v = layer(x)
        queries.append(mine_q)
        # Each of its query heads finds the KV head it shares in the whole model.
        for local, head in enumerate(range(rank * heads // world, (rank + 1) * heads // world)):
            shared = head // (heads // kv_heads)
            own = local // (layer.num_heads // layer.num_kv_heads)
            for ours, weight in ((mine_k, k), (mine_v, v)):
                torch.testing.assert_close(ours[:, own], F.linear(x, weight[shared * size : (shared + 1) * size]))
    torch.testing.assert_close(torch.cat(queries, 1).flatten(-2), F.linear(x, q))


@pytest.mark.parametrize("vocab", [16, 13])
def test_vocabulary(random: torch.Generator, vocab: int) -> None:
    table, head = torch.randn(vocab, 8, generator=random), torch.randn(vocab, 8, generator=random)
    ids, x = torch.arange(vocab), torch.randn(3, 8, generator=random)
    total, logits = torch.zeros(vocab, 8), []
    for rank in range(WORLD):
        group = PlayedGroup(rank, WORLD)
        embedding = VocabParallelEmbedding(vocab, 8, F32, CPU, group)
        lm_head = LMHead(vocab, 8, F32, CPU, group)
        fill(embedding.weight, whole=table), fill(lm_head.weight, whole=head)
        total += embedding(ids)
        logits.append(lm_head(x))
    assert torch.equal(total, table)
    torch.testing.assert_close(torch.cat(logits, -1)[:, :vocab], F.linear(x, head))


def test_replicated_keeps_all() -> None:
    layer = ReplicatedLinear(4, 6, True, UnquantizedLinearMethod(), F32, CPU)
    assert layer.weight.shape == (6, 4) and layer.bias.shape == (6,)
    assert not any(p.requires_grad for p in layer.parameters())


def test_what_does_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"num_heads \(6\) cannot be split over 4"):
        split(6 * 8, 0, 4, "num_heads", 8)
    with pytest.raises(ConfigError, match=r"num_kv_heads \(3\) cannot be shared by 4"):
        split_kv_heads(3, 8, 0, 4)
    assert split_kv_heads(2, 8, 3, 4) == Span(16, 8, 8)


def test_group_of_one_is_the_identity_and_more_are_refused() -> None:
    x = torch.ones(3)
    group = TensorParallelGroup()
    assert group.all_reduce(x) is x and group.all_gather(x) is x
    with pytest.raises(ConfigError, match="tensor_parallel_size is 2"):
        TensorParallelGroup(0, 2)
