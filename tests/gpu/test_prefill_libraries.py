"""Optional libraries that compute prompts, the real ones, against the float64 oracle; unused slots hold NaN throughout.

Skipped where a library is not installed. FlashInfer compiles its kernels at first use, so it is asked for one type and
head size only.
"""

import pytest
import torch

from kvasir.attention.prefill import not_installed
from tests.attention.ragged import Shape, expected, make_step, random_lens, run_backend

pytest.importorskip("triton")
from kvasir.attention.flash_attn import FlashAttnBackend
from kvasir.attention.flashinfer import FlashInferBackend
from tests.attention.ragged import need_of

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(300)]

QWEN, LLAMA, QWEN2 = Shape(16, 8, 128, 16), Shape(32, 8, 128, 16), Shape(14, 2, 64, 16)
LENS = [[(0, 2048)], [(5, 1), (0, 300), (0, 3000)], [(40, 1), (700, 25), (2500, 210)], [(1024, 2048), (3000, 4500)]]
LENS += [random_lens("mixed", seed, longest=700) for seed in range(3)]
LENS += [[(int(n) % 50, 2 + int(n)) for n in torch.randint(0, 60, (200,), generator=torch.Generator().manual_seed(3))]]


def check(backend: type, lens: list[tuple[int, int]], shape: Shape, dtype: torch.dtype, monkeypatch) -> None:
    step = make_step(sorted(lens, key=lambda row: row[1]), shape, dtype, 11)
    refusal = backend.supports(need_of(step, "cuda", None, None))
    if refusal and "not installed" in refusal:
        pytest.skip(refusal)
    assert refusal is None

    def fail(self: object, error: Exception) -> None:
        raise error

    monkeypatch.setattr("kvasir.attention.prefill.Prefill.give_up", fail)  # our kernel must not answer for it
    scale = shape.head_size**-0.5
    got = run_backend(backend, step, scale, device="cuda")
    torch.testing.assert_close(got.double(), expected(step, scale), atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize("lens", LENS)
@pytest.mark.parametrize("shape", [QWEN, LLAMA, QWEN2, Shape(16, 8, 128, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_flash_attn(lens: list[tuple[int, int]], shape: Shape, dtype: torch.dtype, monkeypatch) -> None:
    check(FlashAttnBackend, lens, shape, dtype, monkeypatch)


@pytest.mark.parametrize("lens", LENS)
@pytest.mark.parametrize("shape", [QWEN, LLAMA, Shape(16, 8, 128, 128)])
def test_flashinfer(lens: list[tuple[int, int]], shape: Shape, monkeypatch) -> None:
    check(FlashInferBackend, lens, shape, torch.bfloat16, monkeypatch)


@pytest.mark.skipif(bool(not_installed("flash_attn.cute", "", "")), reason="flash-attn-4 is not installed")
def test_flash_attn_is_not_given_blocks_that_it_reads_whole() -> None:
    step = make_step([(0, 9)], Shape(16, 8, 128, 128), torch.bfloat16, 1)
    assert "block size 128" in FlashAttnBackend.supports(need_of(step, "cuda", None, None))
