"""Backends whose prompts a library computes, with the library's part played by plain torch: what it is told and given.

The stand-ins read the cache as the libraries do, through what they are told alone, so a wrong length, block, stride or
row gives a wrong answer.
"""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from kvasir.attention.flash_attn import FlashAttnBackend
from kvasir.attention.flashinfer import FlashInferBackend
from kvasir.attention.triton import TritonBackend
from kvasir.ops.reference.paged_attention import attend, visible
from tests.attention.ragged import Shape, expected, make_step, run_backend

LENS = [
    [(0, 20)],
    [(7, 1), (0, 3), (0, 9)],
    [(5, 1), (3, 4), (13, 6), (40, 11)],
    [(32, 16), (0, 30)],
    [(9, 1), (2, 5)],
    [(16, 1), (15, 1), (0, 2), (31, 17), (0, 48)],
]


def plain(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
) -> torch.Tensor:  # [L, H, D], [C, K, D] twice -> [L, H, D]
    return attend(query, keys, values, visible(query.shape[0], keys.shape[0], None, query.device), scale, None)


@pytest.fixture
def flash_attn(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The library's function, with the shapes and types that it asserts."""
    seen = SimpleNamespace(calls=0, error=None)

    def forward(
        q, k, v, *, cu_seqlens_q, seqused_k, max_seqlen_q, max_seqlen_k, page_table, softmax_scale, causal, out
    ):
        seen.calls += 1
        if seen.error:
            raise seen.error
        rows = seqused_k.shape[0]
        assert causal and cu_seqlens_q.shape == (rows + 1,) and page_table.shape[0] == rows
        assert {cu_seqlens_q.dtype, seqused_k.dtype, page_table.dtype} == {torch.int32}
        assert cu_seqlens_q[0] == 0 and cu_seqlens_q[-1] == q.shape[0] and out.shape == q.shape
        assert page_table.stride(-1) == q.stride(-1) == k.stride(-1) == v.stride(-1) == out.stride(-1) == 1
        lens = cu_seqlens_q.diff()
        assert max_seqlen_q == lens.max() and max_seqlen_k == seqused_k.max()
        for row, (start, end) in enumerate(zip(cu_seqlens_q.tolist(), cu_seqlens_q[1:].tolist(), strict=False)):
            keys, values = (x[page_table[row].long()].flatten(0, 1)[: seqused_k[row]] for x in (k, v))
            out[start:end] = plain(q[start:end], keys, values, softmax_scale)

    interface = ModuleType("flash_attn.cute.interface")
    interface._flash_attn_fwd = forward
    for name, module in {
        "flash_attn": ModuleType("flash_attn"),
        "flash_attn.cute": ModuleType("flash_attn.cute"),
        "flash_attn.cute.interface": interface,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return seen


@pytest.fixture
def flashinfer(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    seen = SimpleNamespace(calls=0, error=None, plans=0)

    class Wrapper:
        def __init__(self, workspace: torch.Tensor, layout: str):
            assert workspace.dtype == torch.uint8 and layout == "HND"

        def plan(self, starts, page_starts, pages, last_page_lens, **shape) -> None:
            seen.plans += 1
            assert {x.dtype for x in (starts, page_starts, pages, last_page_lens)} == {torch.int32}
            assert len(pages) == page_starts[-1] and shape["causal"]
            self.told = starts.tolist(), page_starts.tolist(), pages.long(), last_page_lens.tolist(), shape

        def run(self, q, cache, *, q_scale, out) -> None:
            seen.calls += 1
            if seen.error:
                raise seen.error
            starts, page_starts, pages, last_page_lens, shape = self.told
            size, heads = shape["page_size"], (shape["num_qo_heads"], shape["num_kv_heads"], shape["head_dim_qk"])
            assert q.shape[0] == starts[-1] and out.shape == q.shape and q.dtype == shape["q_data_type"]
            assert (*q.shape[1:2], cache[0].shape[1], q.shape[2]) == heads and cache[0].shape[2] == size
            scale = q.shape[-1] ** -0.5 * (1.0 if q_scale is None else q_scale)
            for row, last in enumerate(last_page_lens):
                mine = pages[page_starts[row] : page_starts[row + 1]]
                count = (len(mine) - 1) * size + last
                keys, values = (x[mine].transpose(1, 2).flatten(0, 1)[:count] for x in cache)
                tokens = slice(starts[row], starts[row + 1])
                out[tokens] = plain(q[tokens], keys, values, scale)

    module = ModuleType("flashinfer")
    module.BatchPrefillWithPagedKVCacheWrapper = Wrapper
    monkeypatch.setitem(sys.modules, "flashinfer", module)
    return seen


LIBRARIES = [("flash_attn", FlashAttnBackend), ("flashinfer", FlashInferBackend)]


@pytest.mark.parametrize("lens", LENS)
@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("library, backend", LIBRARIES)
def test_any_mixture_of_rows(
    library: str, backend: type, block_size: int, lens: list[tuple[int, int]], request: pytest.FixtureRequest
) -> None:
    seen = request.getfixturevalue(library)
    step = make_step(lens, Shape(block_size=block_size), torch.float32, 5)
    for scale in (0.2, 32**-0.5):
        got = run_backend(backend, step, scale)
        torch.testing.assert_close(got.double(), expected(step, scale), atol=3e-5, rtol=3e-5)
    assert seen.calls == 2, "the library must have been used"


@pytest.mark.parametrize("library, backend", LIBRARIES)
def test_decode_rows_and_last_tokens_stay_ours(library: str, backend: type, request: pytest.FixtureRequest) -> None:
    seen = request.getfixturevalue(library)
    decodes = make_step([(5, 1), (30, 1)], Shape(), torch.float32, 5)
    got = run_backend(backend, decodes, 0.2)
    torch.testing.assert_close(got.double(), expected(decodes, 0.2), atol=3e-5, rtol=3e-5)
    mixed = make_step([(5, 1), (3, 6)], Shape(), torch.float32, 5)
    got = run_backend(backend, mixed, 0.2, last=[0, 1])
    torch.testing.assert_close(got.double(), expected(mixed, 0.2)[[0, 6]], atol=3e-5, rtol=3e-5)
    assert seen.calls == 0


@pytest.mark.parametrize("error", [RuntimeError("no kernel\nmore"), AssertionError(), TypeError("an argument is new")])
@pytest.mark.parametrize("library, backend", LIBRARIES)
def test_a_library_that_fails_is_not_asked_again(
    library: str, backend: type, error: Exception, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = request.getfixturevalue(library)
    seen.error = error
    step = make_step([(5, 1), (3, 4), (13, 6)], Shape(), torch.float32, 5)
    builder = backend.make_builder(
        SimpleNamespace(device="cpu", dtype=torch.float32, head_size=32, num_heads=4, num_kv_heads=2, block_size=16)
    )
    monkeypatch.setattr(backend, "make_builder", staticmethod(lambda need: builder))
    for _ in range(2):
        got = run_backend(backend, step, 0.2)
        torch.testing.assert_close(got.double(), expected(step, 0.2), atol=3e-5, rtol=3e-5)
    assert seen.calls == 1


def test_out_of_memory_is_no_refusal(flash_attn: SimpleNamespace) -> None:
    flash_attn.error = torch.OutOfMemoryError("full")
    with pytest.raises(torch.OutOfMemoryError):
        run_backend(FlashAttnBackend, make_step([(0, 9)], Shape(), torch.float32, 5), 0.2)


def test_they_differ_from_ours_in_prompts_only() -> None:
    for _, backend in LIBRARIES:
        assert issubclass(backend, TritonBackend) and backend.graph_support is TritonBackend.graph_support
