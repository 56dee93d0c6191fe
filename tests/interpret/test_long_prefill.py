"""The long rows' path with the library's part played by plain torch: cutting, padding, gathering, merging."""

import pytest
import torch

pytest.importorskip("triton")

from kvasir.attention import long_prefill
from kvasir.attention.long_prefill import CudnnPrefill, padded
from kvasir.attention.prefill import LastRows
from kvasir.attention.triton import TritonBackend
from tests.attention.ragged import Shape, expected, make_step, run_backend


def plain(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, causal: bool, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    group = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(group, dim=1) for x in (key, value))
    scores = query.double() @ key.transpose(-1, -2) * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), float("-inf"))
    assert torch.isfinite(key).all() and torch.isfinite(value).all(), "padding must not be able to spoil a product"
    return (scores.softmax(-1) @ value).to(query.dtype), scores.logsumexp(-1).float()


@pytest.fixture(autouse=True)
def small_and_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_prefill, "dense_attention", plain)
    monkeypatch.setattr(long_prefill, "MIN_QUERY", 6)
    monkeypatch.setattr(long_prefill, "MARGIN", 16)
    monkeypatch.setattr(long_prefill, "padded", lambda length: -(-length // 8) * 8)
    monkeypatch.setattr(CudnnPrefill, "refusal", staticmethod(lambda need: None))


@pytest.mark.parametrize(
    "lens",
    [[(0, 20)], [(7, 1), (0, 3), (0, 9)], [(5, 1), (3, 4), (13, 6), (40, 11)], [(32, 16), (0, 30)], [(9, 1), (2, 5)]],
)
def test_any_mixture_of_rows(lens: list[tuple[int, int]]) -> None:
    step = make_step(lens, Shape(), torch.float32, 5)
    got = run_backend(TritonBackend, step, 0.2)
    torch.testing.assert_close(got.double(), expected(step, 0.2), atol=3e-5, rtol=3e-5)


def test_which_rows_are_long() -> None:
    batch = make_step([(5, 1), (3, 4), (13, 6), (40, 11)], Shape(), torch.float32, 5).batch
    assert LastRows.of(batch, 6) == LastRows(2, 5, [(13, 6), (40, 11)])
    assert LastRows.of(make_step([(5, 1), (3, 4)], Shape(), torch.float32, 5).batch, 6) is None


def test_a_refusal_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("no plan\nmore")

    monkeypatch.setattr(long_prefill, "dense_attention", refuse)
    step = make_step([(0, 20)], Shape(), torch.float32, 5)
    got = run_backend(TritonBackend, step, 0.2)
    torch.testing.assert_close(got.double(), expected(step, 0.2), atol=3e-5, rtol=3e-5)


def test_padding_is_small_and_gives_few_lengths() -> None:
    lengths = {length: padded(length) for length in range(1, 20_000, 7)}
    assert all(0 <= p - n < 1024 for n, p in lengths.items())
    assert len(set(lengths.values())) <= 24
