"""The Triton backend on the card against the float64 oracle; unused cache slots hold NaN throughout."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from kvasir.attention.backend import AttentionBatch
from kvasir.attention.reference import ReferenceBackend
from tests.attention.ragged import Shape, Step, expected, fill_cache, make_step, need_of, random_lens, run_backend

pytest.importorskip("triton")
from kvasir.attention import hopper_prefill, long_prefill
from kvasir.attention.hopper_prefill import HopperPrefill
from kvasir.attention.prefill import Prefill
from kvasir.attention.triton import TritonBackend, TritonMetadata, cache_views
from kvasir.ops.triton import paged_attention as launch

pytestmark = pytest.mark.gpu

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
QWEN, LLAMA = Shape(16, 8, 128, 16), Shape(32, 8, 128, 16)


def check(step: Step, window: int | None = None, cap: float | None = None, scale: float | None = None) -> None:
    scale = scale or step.shape.head_size**-0.5
    got = run_backend(TritonBackend, step, scale, window, cap, device="cuda")
    tolerance = TOLERANCE[step.query.dtype]
    torch.testing.assert_close(got.double(), expected(step, scale, window, cap), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("window", [None, 1, 100])
@pytest.mark.parametrize("kind", ["decode", "prefill", "chunk", "mixed"])
@pytest.mark.parametrize("seed", range(2))
def test_ragged_steps(kind: str, window: int | None, dtype: torch.dtype, seed: int) -> None:
    check(make_step(random_lens(kind, seed, longest=700), QWEN, dtype, seed), window)


@pytest.mark.parametrize("kind", ["decode", "mixed"])
@pytest.mark.parametrize("window", [None, 64])
def test_soft_cap(kind: str, window: int | None) -> None:
    check(make_step(random_lens(kind, 9, longest=500), LLAMA, torch.bfloat16, 9), window, cap=5.0)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(4, 4, 64, 32),
        Shape(14, 2, 64, 16),
        Shape(8, 1, 80, 64),
        Shape(6, 2, 96, 128),
        Shape(28, 4, 128, 16),
        Shape(64, 8, 128, 64),
        Shape(8, 4, 256, 16),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_shapes(shape: Shape, dtype: torch.dtype) -> None:
    check(make_step(random_lens("mixed", 4, longest=300), shape, dtype, 4))


@pytest.mark.parametrize("rows", [1, 2, 31, 32, 130, 300])
def test_many_decode_rows(rows: int) -> None:
    lens = [(int(n), 1) for n in torch.randint(0, 400, (rows,), generator=torch.Generator().manual_seed(rows))]
    check(make_step(lens, QWEN, torch.bfloat16, rows))


def test_one_row_far_longer_than_the_others() -> None:
    check(make_step([(9000, 1), (3, 1), (500, 1), (4095, 1)], LLAMA, torch.bfloat16, 1))


def test_long_prompt_and_long_context() -> None:
    check(make_step([(2, 1), (3000, 200), (0, 1500)], QWEN, torch.bfloat16, 2))


@pytest.fixture
def no_cuda_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HopperPrefill, "refusal", staticmethod(lambda need: "not in this test"))


@pytest.mark.usefixtures("no_cuda_prefill")
@pytest.mark.parametrize("shape", [QWEN, LLAMA, Shape(4, 2, 64, 64)])
@pytest.mark.parametrize(
    "lens",
    [[(0, 2048)], [(5, 1), (0, 300), (0, 3000)], [(40, 1), (700, 2500), (2500, 2100)], [(1024, 2048), (3000, 4500)]],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_long_rows_go_to_cudnn(lens: list[tuple[int, int]], shape: Shape, dtype: torch.dtype, monkeypatch) -> None:
    used = []
    attend = long_prefill.dense_attention
    monkeypatch.setattr(long_prefill, "dense_attention", lambda *a: (used.append(1), attend(*a))[1])
    check(make_step(lens, shape, dtype, 11))
    assert len(used) == sum((q >= 2048) + (q >= 2048 and c >= 1024) for c, q in lens)


@pytest.mark.parametrize("shape", [QWEN, LLAMA, Shape(14, 2, 64, 16)])
@pytest.mark.parametrize("rows", [1, 9, 70, 200])
@pytest.mark.parametrize("shared", [0, 64, 528, 2048])
def test_a_shared_prefix_is_read_once(rows: int, shared: int, shape: Shape) -> None:
    generator = torch.Generator().manual_seed(rows)
    lens = [(shared + int(n), 1) for n in torch.randint(1, 300, (rows,), generator=generator)]
    step = make_step([*lens, (0, 0)], shape, torch.bfloat16, rows, padded_tokens=1)
    for row in range(rows):
        step.keys[row][:shared], step.values[row][:shared] = step.keys[0][:shared], step.values[0][:shared]
        step.batch.block_table[row, : shared // 16] = step.batch.block_table[0, : shared // 16]
    shared_len = torch.tensor([shared], dtype=torch.int32)
    batch = dataclasses.replace(step.batch, shared_len=shared_len, num_decodes=rows + 1)
    check(dataclasses.replace(step, batch=batch))


@pytest.fixture
def cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of a test, short ones too, have to go to the kernel in CUDA C++, and it must not give them back."""
    if torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs a card of compute capability 9")
    monkeypatch.setattr(hopper_prefill, "MIN_QUERY", 2)
    monkeypatch.setattr(Prefill, "give_up", lambda prefill, error: pytest.fail(f"it gave up: {error}"))
    monkeypatch.setattr(launch, "_prefill", None)


IN_CUDA = [
    QWEN,
    LLAMA,
    Shape(3, 3, 128, 32),
    Shape(14, 2, 128, 64),
    Shape(8, 1, 128, 128),
    Shape(15, 3, 128, 16),
    Shape(128, 1, 128, 16),
    Shape(48, 1, 128, 64),
    Shape(14, 2, 64, 16),
    Shape(4, 4, 64, 64),
]
"""One to 128 query heads a KV head; with 3, 5, 7 and 48 of them a tile of 128 rows is not full."""


@pytest.mark.usefixtures("cuda_only")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", IN_CUDA)
@pytest.mark.parametrize("kind", ["prefill", "chunk", "mixed"])
def test_prefill_in_cuda(kind: str, shape: Shape, dtype: torch.dtype) -> None:
    for seed in (30, 31):
        lens = [
            (context, max(query, 2) if kind != "mixed" else query)
            for context, query in random_lens(kind, seed, longest=700)
        ]
        check(make_step(sorted(lens, key=lambda row: row[1]), shape, dtype, seed))


@pytest.mark.usefixtures("cuda_only")
@pytest.mark.parametrize("shape", [QWEN, Shape(7, 1, 128, 16), Shape(2, 1, 64, 64)])
@pytest.mark.parametrize("context", [0, 1, 62, 63, 64, 65, 127, 128, 1000])
def test_prefill_in_cuda_where_tiles_end(context: int, shape: Shape) -> None:
    lens = [(context, query) for query in (2, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 257)]
    check(make_step(lens, shape, torch.bfloat16, context))


@pytest.mark.usefixtures("cuda_only")
@pytest.mark.parametrize("rows", [33, 300])
def test_prefill_in_cuda_of_many_rows(rows: int) -> None:
    queries = sorted(2 + int(n) for n in torch.randint(0, 90, (rows,), generator=torch.Generator().manual_seed(rows)))
    check(make_step([(query % 50, query) for query in queries], QWEN, torch.bfloat16, rows))


@pytest.mark.usefixtures("cuda_only")
@pytest.mark.parametrize("lens", [[(0, 4096)], [(40, 1), (700, 2500), (9000, 3100)]])
def test_prefill_in_cuda_of_long_rows(lens: list[tuple[int, int]]) -> None:
    check(make_step(lens, QWEN, torch.bfloat16, 5))


@pytest.mark.usefixtures("cuda_only")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_prefill_in_cuda_of_scores_far_apart(dtype: torch.dtype) -> None:
    check(make_step([(900, 70), (0, 600)], QWEN, dtype, 4), scale=1.0)


@pytest.mark.usefixtures("cuda_only")
def test_prefill_in_cuda_is_the_same_every_time() -> None:
    step = make_step([(300, 400), (0, 900)], QWEN, torch.bfloat16, 6)
    first, again = (run_backend(TritonBackend, step, 0.1, device="cuda") for _ in range(2))
    assert torch.equal(first, again)


@pytest.fixture
def overlap_only(no_cuda_prefill: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of a test have to go to the kernel for Hopper: the other one is not there."""
    if launch.prefill_overlap is None or torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("needs a card of compute capability 9 and Triton 3.6")
    monkeypatch.setattr(launch, "prefill_kernel", None)


OVERLAPPING = [
    QWEN,
    LLAMA,
    Shape(3, 3, 128, 32),
    Shape(14, 2, 128, 64),
    Shape(8, 1, 128, 32),
    Shape(15, 3, 128, 16),
    Shape(64, 1, 128, 16),
    Shape(48, 1, 128, 64),
    Shape(14, 2, 64, 16),
    Shape(4, 4, 64, 64),
]
"""One to 64 query heads a KV head; with 3, 5, 7 and 48 of them a tile of 64 rows is not full."""


@pytest.mark.usefixtures("overlap_only")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", OVERLAPPING)
@pytest.mark.parametrize("kind", ["prefill", "chunk", "mixed"])
def test_prefill_with_overlap(kind: str, shape: Shape, dtype: torch.dtype) -> None:
    for seed in (20, 21):
        check(make_step(random_lens(kind, seed, longest=700), shape, dtype, seed))


@pytest.mark.usefixtures("overlap_only")
@pytest.mark.parametrize("shape", [QWEN, Shape(7, 1, 128, 16), Shape(2, 1, 64, 64)])
@pytest.mark.parametrize("context", [0, 1, 62, 63, 64, 65, 127, 128, 1000])
def test_prefill_with_overlap_where_tiles_end(context: int, shape: Shape) -> None:
    lens = [(context, query) for query in (2, 8, 9, 31, 32, 33, 63, 64, 65, 128, 129)]
    check(make_step(lens, shape, torch.bfloat16, context))


@pytest.mark.usefixtures("overlap_only")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_prefill_with_overlap_of_scores_far_apart(dtype: torch.dtype) -> None:
    check(make_step([(0, 600), (900, 70)], QWEN, dtype, 4), scale=1.0)


def test_many_prefill_rows() -> None:
    lens = [(int(n) % 50, 2 + int(n)) for n in torch.randint(0, 60, (200,), generator=torch.Generator().manual_seed(3))]
    check(make_step(lens, Shape(4, 2, 64, 16), torch.bfloat16, 3))


@pytest.mark.parametrize("lens", [[(300, 1), (0, 0), (0, 0)], [(300, 1), (3, 5), (0, 7)]])
def test_padding_gives_zeros(lens: list[tuple[int, int]]) -> None:
    step = make_step(lens, QWEN, torch.bfloat16, 7, padded_tokens=2)
    got = run_backend(TritonBackend, step, 0.1, device="cuda")
    assert bool((got[sum(step.batch.query_lens) :] == 0).all())


def test_reference_backend_runs_on_the_card() -> None:
    step = make_step(random_lens("mixed", 5), Shape(), torch.bfloat16, 5)
    got = run_backend(ReferenceBackend, step, 0.2, device="cuda")
    torch.testing.assert_close(got.double(), expected(step, 0.2), atol=3e-2, rtol=3e-2)


def on_card(batch: AttentionBatch) -> AttentionBatch:
    moved = {k: v.cuda() for k, v in vars(batch).items() if isinstance(v, torch.Tensor)}
    return dataclasses.replace(batch, **moved)


def captured(run: Callable[[], torch.Tensor]) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    return graph, output


@pytest.mark.parametrize("window", [None, 50])
def test_a_captured_decode_step_replays_for_other_lengths(window: int | None) -> None:
    """One graph of 8 rows, replayed over batches of other lengths, tables and paddings, as the runner will do."""
    rows, max_blocks, num_blocks, shape, dtype = 8, 64, 520, QWEN, torch.bfloat16
    cache = torch.full(TritonBackend.kv_cache_shape(num_blocks, 16, 8, 128), float("nan"), dtype=dtype, device="cuda")
    static = AttentionBatch(
        query_start_loc=torch.arange(rows + 1, dtype=torch.int32, device="cuda"),
        seq_lens=torch.ones(rows, dtype=torch.int32, device="cuda"),
        block_table=torch.zeros(rows, max_blocks, dtype=torch.int32, device="cuda"),
        table_rows=torch.arange(rows, device="cuda"),
        slot_mapping=torch.full((rows,), -1, dtype=torch.int64, device="cuda"),
        num_reqs=rows,
        num_tokens=rows,
        num_decodes=rows,
        max_query_len=1,
        max_seq_len=max_blocks * 16,
        query_lens=[1] * rows,
        context_lens=[max_blocks * 16 - 1] * rows,
    )
    query = torch.zeros(rows, 16, 128, dtype=dtype, device="cuda")
    key, value = (torch.zeros(rows, 8, 128, dtype=dtype, device="cuda") for _ in range(2))
    impl = TritonBackend.make_impl(16, 128, 0.1, 8, window)

    def run() -> torch.Tensor:
        return impl.forward(query, key, value, cache, TritonMetadata(static))

    graph, output = captured(run)
    for seed in range(4):
        lens = [
            (int(n), 1) for n in torch.randint(0, 900, (rows - seed,), generator=torch.Generator().manual_seed(seed))
        ]
        step = make_step(lens, shape, dtype, seed)
        count = len(lens)
        cache.fill_(float("nan"))
        keys, values = cache[:, 0].transpose(1, 2), cache[:, 1].transpose(1, 2)
        batch = on_card(step.batch)
        for row, (context, _) in enumerate(lens):
            positions = torch.arange(context, device="cuda")
            blocks = batch.block_table[row].long()[positions // 16]
            keys[blocks, positions % 16] = step.keys[row][:context].cuda()
            values[blocks, positions % 16] = step.values[row][:context].cuda()
        static.seq_lens.zero_()
        static.seq_lens[:count] = batch.seq_lens
        static.block_table.zero_()
        static.block_table[:count, : batch.block_table.shape[1]] = batch.block_table
        static.slot_mapping.fill_(-1)
        static.slot_mapping[:count] = batch.slot_mapping
        query[:count], key[:count], value[:count] = (
            step.query.cuda(),
            *(step.new(x).cuda() for x in (step.keys, step.values)),
        )
        graph.replay()
        torch.cuda.synchronize()
        want = expected(step, 0.1, window)
        torch.testing.assert_close(output[:count].double().cpu(), want, atol=3e-2, rtol=3e-2)
        assert bool((output[count:] == 0).all()), "padded rows"


@pytest.mark.parametrize("shape", [QWEN, LLAMA, Shape(7, 1, 128, 64), Shape(14, 2, 64, 16), Shape(4, 2, 96, 16)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_captured_mixed_step_replays_for_other_rows(shape: Shape, dtype: torch.dtype) -> None:
    """One graph of 16 rows and 512 tokens; tokens and cells that are nobody's hold NaN, padding rows other tables."""
    rows, tokens, num_blocks, size = 16, 512, 600, shape.block_size
    cache_shape = TritonBackend.kv_cache_shape(num_blocks, size, shape.num_kv_heads, shape.head_size)
    cache = torch.full(cache_shape, float("nan"), dtype=dtype, device="cuda")
    static = AttentionBatch(
        query_start_loc=torch.zeros(rows + 1, dtype=torch.int32, device="cuda"),
        seq_lens=torch.zeros(rows, dtype=torch.int32, device="cuda"),
        block_table=torch.full((rows, 80), num_blocks - 1, dtype=torch.int32, device="cuda"),
        table_rows=torch.arange(rows, device="cuda"),
        slot_mapping=torch.full((tokens,), -1, dtype=torch.int64, device="cuda"),
        num_reqs=rows,
        num_tokens=tokens,
        num_decodes=None,
        max_query_len=tokens,
        max_seq_len=80 * size,
        query_lens=[],
        context_lens=[],
    )
    query, key, value = (
        torch.zeros(tokens, heads, shape.head_size, dtype=dtype, device="cuda")
        for heads in (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
    )
    impl = TritonBackend.make_impl(shape.num_heads, shape.head_size, 0.1, shape.num_kv_heads)
    graph, output = captured(lambda: impl.forward(query, key, value, cache, TritonMetadata(static)))
    decodes, chunks = [(700, 1), (3, 1), (64, 1), (0, 1)], [(130, 7), (0, 64), (500, 200), (63, 33), (0, 2)]
    for lens in (decodes + chunks, chunks[:3], decodes, [(0, 512)], [(7, 1), (511, 65)], []):
        step = make_step(lens or [(0, 0)], shape, dtype, len(lens))
        batch, real = on_card(step.batch), sum(step.batch.query_lens)
        count = len(step.batch.query_lens)
        cache.fill_(float("nan"))
        fill_cache(step, *cache_views(cache))
        static.query_start_loc.fill_(real)
        static.query_start_loc[: count + 1] = batch.query_start_loc
        static.seq_lens.zero_()
        static.seq_lens[:count] = batch.seq_lens
        static.block_table.fill_(num_blocks - 1)
        static.block_table[:count, : batch.block_table.shape[1]] = batch.block_table
        static.slot_mapping.fill_(-1)
        static.slot_mapping[:real] = batch.slot_mapping
        for given, new in ((query, step.query), (key, step.new(step.keys)), (value, step.new(step.values))):
            given.fill_(float("nan"))
            given[:real] = new.cuda()
        output.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(output[:real].double().cpu(), expected(step, 0.1), atol=tolerance, rtol=tolerance)
        assert bool((output[real:] == 0).all()), "tokens of no row"


def test_the_selector_takes_triton_on_this_card() -> None:
    step = make_step([(3, 1)], QWEN, torch.bfloat16, 0)
    need = dataclasses.replace(need_of(step, "cuda", None, None), capability=torch.cuda.get_device_capability())
    from kvasir.attention.selector import get_attn_backend

    assert get_attn_backend(need)[0].name == "triton"
