"""The contract of every attention backend that runs on a CPU: a ragged step gives the float64 oracle's answer."""

import pytest
import torch

from kvasir.attention.cpu import CpuBackend
from kvasir.attention.reference import ReferenceBackend
from kvasir.platforms.native import ISAS, native_library
from tests.attention.ragged import Shape, Step, expected, make_step, random_lens, run_backend

BACKENDS = [ReferenceBackend, CpuBackend]
if native_library().handle:
    from kvasir.attention.cpp import CppBackend

    BACKENDS.append(CppBackend)
TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def check(backend: type, step: Step, window: int | None = None, cap: float | None = None) -> None:
    scale = step.shape.head_size**-0.5
    got = run_backend(backend, step, scale, window, cap)
    real = sum(step.batch.query_lens)
    want = expected(step, scale, window, cap)
    tolerance = TOLERANCE[step.query.dtype]
    torch.testing.assert_close(got[:real].double(), want[:real], atol=tolerance, rtol=tolerance)
    assert torch.isfinite(got).all(), "padding must come out finite"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fragmented", [True, False])
@pytest.mark.parametrize("window", [None, 1, 20, 1000])
@pytest.mark.parametrize("kind", ["decode", "prefill", "chunk", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_ragged_steps(backend: type, kind: str, window: int | None, fragmented: bool, seed: int) -> None:
    check(backend, make_step(random_lens(kind, seed), Shape(), torch.float32, seed, fragmented=fragmented), window)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("window", [None, 30])
@pytest.mark.parametrize("kind", ["decode", "chunk", "mixed"])
def test_soft_cap(backend: type, kind: str, window: int | None) -> None:
    step = make_step(random_lens(kind, 7), Shape(), torch.float32, 7)
    check(backend, step, window, cap=2.0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_sixteen_bits(backend: type, dtype: torch.dtype, cap: float | None) -> None:
    if backend.name == "cpp" and dtype == torch.float16:
        pytest.skip("the C++ kernels know float32 and bfloat16; the selector gives float16 to the cpu backend")
    check(backend, make_step(random_lens("mixed", 3), Shape(), dtype, 3), None, cap)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "shape", [Shape(4, 4, 64, 32), Shape(8, 1, 80, 16), Shape(14, 2, 64, 64), Shape(6, 2, 96, 128), Shape(3, 3, 17, 8)]
)
def test_shapes(backend: type, shape: Shape) -> None:
    check(backend, make_step(random_lens("mixed", 11), shape, torch.float32, 11))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("padded_tokens", [0, 5])
def test_padding_is_harmless(backend: type, padded_tokens: int) -> None:
    """Rows of seq_len 0 and tokens without a slot change nothing and write nothing."""
    check(backend, make_step(random_lens("padded", 5), Shape(), torch.float32, 5, padded_tokens=padded_tokens))


@pytest.mark.parametrize("backend", BACKENDS)
def test_long_prompts_go_in_chunks(backend: type) -> None:
    """Longer than one chunk of the CPU planner, with and without context, windowed and capped."""
    step = make_step([(0, 1), (0, 600), (333, 300)], Shape(2, 1, 16, 16), torch.float32, 1)
    for window in (None, 100, 550):
        check(backend, step, window)
        check(backend, step, window, cap=3.0)


def test_cpu_groups_rows_of_very_different_lengths() -> None:
    lens = [(n, 1) for n in (5, 3000, 7, 2500, 0, 9, 400, 3000)]
    check(CpuBackend, make_step(lens, Shape(4, 2, 64, 16), torch.float32, 2))
    check(CpuBackend, make_step(lens, Shape(4, 2, 64, 16), torch.float32, 2, fragmented=False))


@pytest.mark.parametrize("seed", range(4))
def test_backends_agree_with_the_reference_over_many_steps(seed: int) -> None:
    """Fresh random shapes; the reference backend itself is held by the oracle above."""
    generator = torch.Generator().manual_seed(100 + seed)
    kinds = ["decode", "chunk", "mixed", "prefill"]
    step = make_step(random_lens(kinds[seed % 4], 50 + seed), Shape(8, 2, 64, 16), torch.float32, seed)
    window = int(torch.randint(1, 80, (1,), generator=generator))
    reference = run_backend(ReferenceBackend, step, 0.1, window)
    for backend in BACKENDS[1:]:
        torch.testing.assert_close(run_backend(backend, step, 0.1, window), reference, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_last_tokens(backend: type) -> None:
    step = make_step([(9, 1), (40, 1), (3, 5), (0, 7)], Shape(), torch.float32, 5)
    got = run_backend(backend, step, 0.2, last=[0, 3])
    torch.testing.assert_close(got.double(), expected(step, 0.2)[[0, 13]], atol=2e-5, rtol=2e-5)


@pytest.mark.skipif(not native_library().handle, reason="no native library")
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpp_on_every_instruction_set(isa: str, threads: int, dtype: torch.dtype) -> None:
    """Groups of 1 to 8 and 14 query heads, head sizes that are no whole vectors, blocks smaller than a tile, windows
    that end inside a block, rows longer than one piece."""
    library = native_library()
    before = library.isa
    if not library.use_isa(isa):
        pytest.skip(f"{isa} cannot run here")
    torch.set_num_threads(threads)
    shapes = [Shape(group * kv, kv, size, block) for group, kv, size, block in (
        (1, 3, 17, 8), (2, 2, 32, 16), (3, 1, 64, 16), (4, 2, 80, 32), (5, 1, 96, 16), (6, 1, 128, 128), (7, 2, 64, 16),
        (8, 1, 128, 16), (14, 1, 33, 1),
    )]  # fmt: skip
    try:
        for seed, shape in enumerate(shapes):
            kind = ["decode", "chunk", "mixed", "prefill", "padded"][seed % 5]
            lens = random_lens(kind, seed)
            lens = [(1100 + seed, 1), (511, 1), (512, 1), *lens] if kind in ("decode", "padded") else lens
            step = make_step(lens, shape, dtype, seed)
            for window, cap in ((None, None), (1, None), (33, 5.0), (None, 2.0)):
                check(CppBackend, step, window, cap)
    finally:
        library.use_isa(before)


@pytest.mark.skipif(not native_library().handle, reason="no native library")
def test_cpp_gives_a_row_the_same_answer_whatever_its_neighbours() -> None:
    shape = Shape(8, 2, 64, 16)
    lens = [(700, 1), (3, 1), (90, 1), (40, 30), (0, 50)]
    step = make_step(lens, shape, torch.float32, 5)
    together = run_backend(CppBackend, step, 0.1)
    start = 0
    for row, (context, query) in enumerate(lens):
        alone = make_step([(context, query)], shape, torch.float32, 5)
        alone.keys[0], alone.values[0] = step.keys[row], step.values[row]
        alone.query.copy_(step.query[start : start + query])
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(run_backend(CppBackend, alone, 0.1), together[start : start + query])
        start += query
