"""The C++ kernels on every instruction set that this machine has: against float64, ragged shapes, 1 and 2 threads."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional as F

from kvasir import envs, ops
from kvasir.ops.reference import norm, rope, rope_and_cache
from kvasir.platforms.native import ISAS, native_library

if not native_library().handle:
    if envs.REQUIRE_NATIVE.flag:
        pytest.fail(native_library().missing, pytrace=False)
    pytest.skip(f"no native library: {native_library().missing}", allow_module_level=True)

from kvasir.ops import cpp
from kvasir.ops.cpp.linear import gated_linear, linear
from kvasir.ops.cpp.rope import rope_and_cache as cpp_rope_and_cache

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
NATIVE = torch.ops.kvasir


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    library = native_library()
    before = library.isa
    if not library.use_isa(request.param):
        pytest.skip(f"{request.param} cannot run here")
    assert library.isa == request.param
    yield request.param
    library.use_isa(before)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(1)


def near(got: torch.Tensor, want: torch.Tensor, scale: float = 1.0) -> None:
    tolerance = TOLERANCE[got.dtype] * scale
    torch.testing.assert_close(got.double(), want.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 16, 1), (1, 17, 8), (2, 31, 33), (3, 100, 64), (4, 16, 70), (7, 333, 127),
                                   (8, 48, 256), (13, 40, 96), (16, 1000, 40)])  # fmt: skip
def test_linear(isa: str, threads: int, dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    rows, outputs, inputs = shape
    x, weight, bias = (torch.randn(*size).to(dtype) for size in ((rows, inputs), (outputs, inputs), (outputs,)))
    want = x.double() @ weight.double().T
    near(NATIVE.linear(x, weight), want, inputs**0.5)
    near(NATIVE.linear_bias(x, weight, bias), want + bias.double(), inputs**0.5)
    wide_x, wide_weight = torch.randn(rows, inputs + 9).to(dtype), torch.randn(outputs, inputs + 5).to(dtype)
    wide_x[:, :inputs], wide_weight[:, 5:] = x, weight
    assert torch.equal(NATIVE.linear(wide_x[:, :inputs], wide_weight[:, 5:]), NATIVE.linear(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_of_a_product_does_not_depend_on_its_neighbours(isa: str, threads: int, dtype: torch.dtype) -> None:
    x, weight = torch.randn(15, 200).to(dtype), torch.randn(70, 200).to(dtype)
    together = linear(x, weight)
    for row in range(15):
        assert torch.equal(linear(x[row : row + 1], weight)[0], together[row])
    assert torch.equal(linear(x[3:10], weight), together[3:10])
    assert torch.equal(linear(x.view(5, 3, 200), weight), together.view(5, 3, 70))


@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_linear_is_both_ops(dtype: torch.dtype) -> None:
    x, weight = torch.randn(6, 64).to(dtype), torch.randn(80, 64).to(dtype)
    assert torch.equal(gated_linear(x, weight), NATIVE.silu_and_mul(NATIVE.linear(x, weight)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_and_small_products_go_to_torch(dtype: torch.dtype) -> None:
    for rows, outputs in ((0, 32), (200, 32), (3, 5)):
        x, weight = torch.randn(rows, 24).to(dtype), torch.randn(outputs, 24).to(dtype)
        near(linear(x, weight), F.linear(x.double(), weight.double()), 5)
    x, weight = torch.randn(3, 24).half(), torch.randn(32, 24).half()
    assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 16, 33, 128, 1000])
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_norms(isa: str, threads: int, dtype: torch.dtype, width: int, rows: int) -> None:
    x, residual, weight = ((torch.randn(*size) * 3).to(dtype) for size in ((rows, width), (rows, width), (width,)))
    near(NATIVE.rms_norm(x, weight, 1e-6), norm.rms_norm(x.double(), weight.double(), 1e-6))
    normed, total = NATIVE.add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(total, x + residual)
    near(normed, norm.rms_norm(total.double(), weight.double(), 1e-6))
    heads = (torch.randn(rows, 5, width + 3) * 2).to(dtype)[:, 1:4, 2 : width + 2]  # of a packed projection
    near(NATIVE.rms_norm(heads, weight, 1e-6), norm.rms_norm(heads.double(), weight.double(), 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 24, 333])
def test_silu_and_mul(isa: str, threads: int, dtype: torch.dtype, width: int) -> None:
    x = (torch.randn(70, 2 * width) * 4).to(dtype)
    x[0, 0], x[1, 0], x[2, 0], x[3, 0] = 100.0, -100.0, 0.0, -89.0
    gate, up = x.double().chunk(2, -1)
    near(NATIVE.silu_and_mul(x), F.silu(gate) * up, 3)
    strange = torch.tensor([[float("inf"), float("nan"), float("-inf"), 1.0, 1.0, 1.0]], dtype=dtype)
    got = NATIVE.silu_and_mul(strange)
    assert got[0, 0] == float("inf")
    assert got[0, 1].isnan()


def rope_inputs(dtype: torch.dtype, tokens: int, size: int, rot_dim: int) -> tuple[torch.Tensor, ...]:
    angles = torch.rand(60, rot_dim // 2) * 6
    packed = torch.randn(tokens, 9, size).to(dtype)
    return torch.randint(0, 60, (tokens,)), *packed.split([5, 2, 2], 1), torch.cat((angles.cos(), angles.sin()), -1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(32, 32), (64, 16), (128, 128), (80, 80), (17, 10), (96, 2)])
@pytest.mark.parametrize("tokens", [1, 40])
def test_rope(isa: str, threads: int, dtype: torch.dtype, sizes: tuple[int, int], tokens: int) -> None:
    positions, q, k, _, table = rope_inputs(dtype, tokens, *sizes)
    got = NATIVE.apply_rope(positions, q, k, table)
    for mine, same in zip(got, rope.apply_rope(positions, q, k, table), strict=True):
        assert torch.equal(mine, same), "two products and a sum, each rounded, whatever the instruction set"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("sizes", [(32, 32), (128, 128), (80, 40), (17, 10)])
@pytest.mark.parametrize("layout", ["cpp", "cpu"])
def test_rope_and_cache(
    isa: str, threads: int, dtype: torch.dtype, normed: bool, sizes: tuple[int, int], layout: str
) -> None:
    size, tokens = sizes[0], 30
    positions, q, k, v, table = rope_inputs(dtype, tokens, *sizes)
    slots = torch.randperm(48)[:tokens]
    slots[::7] = -1
    weights = (torch.randn(size).to(dtype), torch.randn(size).to(dtype), 1e-6) if normed else ()
    caches = []
    for call in (cpp_rope_and_cache, rope_and_cache.rope_and_cache):
        shape = (3, 2, 2, 16, size) if layout == "cpp" else (3, 16, 2, 2, size)
        cache = torch.full(shape, 9.0, dtype=dtype)
        keys, values = cache.transpose(2, 3).unbind(1) if layout == "cpp" else cache.unbind(2)
        before = q.clone(), k.clone(), v.clone()
        caches.append((call(positions, q, k, v, table, keys, values, slots, *weights), cache))
        assert all(torch.equal(a, b) for a, b in zip(before, (q, k, v), strict=True))
    near(caches[0][0], caches[1][0])
    near(caches[0][1], caches[1][1])


def test_wrong_calls_are_refused_before_memory_is_touched() -> None:
    x, weight = torch.randn(4, 32), torch.randn(32, 32)
    for call, said in (
        (lambda: NATIVE.linear(x, weight[:, :31]), "does not fit"),
        (lambda: NATIVE.linear(x, weight[:15]), "too few rows"),
        (lambda: NATIVE.linear(x, weight.bfloat16()), "dtypes differ"),
        (lambda: NATIVE.linear(x.T, weight[:, :4]), "not contiguous"),
        (lambda: NATIVE.linear(x.double(), weight.double()), "neither float32 nor bfloat16"),
        (lambda: NATIVE.rms_norm(x, weight[0, :31], 1e-6), "weight"),
        (lambda: NATIVE.silu_and_mul(x[:, :31]), r"2 \* I"),
    ):
        with pytest.raises(RuntimeError, match=said):
            call()
    heads, table = torch.randn(4, 2, 32), torch.randn(10, 32)
    cache, slots = torch.zeros(2, 16, 2, 32), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="outside the table"):
        NATIVE.apply_rope(torch.tensor([0, 1, 10, 2]), heads, heads, table)
    with pytest.raises(RuntimeError, match="outside the cache"):
        NATIVE.reshape_and_cache(heads, heads, cache, cache, slots + 32)
    lens = torch.tensor([33], dtype=torch.int32)
    starts, blocks = torch.tensor([0, 1], dtype=torch.int32), torch.zeros(1, 2, dtype=torch.int32)
    with pytest.raises(RuntimeError, match="longer than its blocks"):
        NATIVE.paged_attention(heads, cache, cache, starts, lens, blocks, slots[:1], 1.0, 0, 0.0)
    with pytest.raises(RuntimeError, match="no such block"):
        NATIVE.paged_attention(heads, cache, cache, starts, lens - 5, blocks + 2, slots[:1], 1.0, 0, 0.0)
    with pytest.raises(RuntimeError, match="no such row"):
        NATIVE.paged_attention(heads, cache, cache, starts, lens - 5, blocks, slots[:1] + 1, 1.0, 0, 0.0)


def test_ops_can_be_traced_by_shape() -> None:
    torch.library.opcheck(NATIVE.linear.default, (torch.randn(3, 8), torch.randn(20, 8)), test_utils="test_faketensor")
    torch.library.opcheck(NATIVE.linear_bias.default, (torch.randn(3, 8), torch.randn(20, 8), torch.randn(20)),
                          test_utils="test_faketensor")  # fmt: skip
    torch.library.opcheck(NATIVE.rms_norm.default, (torch.randn(3, 2, 8), torch.randn(8), 1e-6),
                          test_utils="test_faketensor")  # fmt: skip
    torch.library.opcheck(NATIVE.silu_and_mul.default, (torch.randn(3, 8),), test_utils="test_faketensor")
    positions, q, k, v, table = rope_inputs(torch.float32, 6, 16, 16)
    cache = torch.zeros(2, 2, 2, 16, 16)
    keys, values = cache.transpose(2, 3).unbind(1)
    for op, args in (
        (NATIVE.add_rms_norm, (torch.randn(3, 8), torch.randn(3, 8), torch.randn(8), 1e-6)),
        (NATIVE.apply_rope, (positions, q, k, table)),
        (NATIVE.reshape_and_cache, (k, v, keys, values, torch.arange(6))),
        (NATIVE.rope_and_cache, (positions, q, k, v, table, keys, values, torch.arange(6))),
        (NATIVE.norm_rope_and_cache, (positions, q, k, v, table, keys, values, torch.arange(6), torch.ones(16),
                                      torch.ones(16), 1e-6)),
        (NATIVE.paged_attention, (q[:, :4], keys, values, torch.tensor([0, 6], dtype=torch.int32),
                                  torch.tensor([6], dtype=torch.int32), torch.zeros(1, 2, dtype=torch.int32),
                                  torch.zeros(1, dtype=torch.int64), 0.3, 0, 0.0)),
    ):  # fmt: skip
        torch.library.opcheck(op.default, args, test_utils=("test_schema", "test_faketensor"))


def test_callers_on_many_threads_at_once() -> None:
    """One of them has the pool, the others compute alone; all are right."""
    torch.set_num_threads(2)
    x, weight = torch.randn(8, 256), torch.randn(2048, 256)
    want, wrong = NATIVE.linear(x, weight), []

    def call() -> None:
        for _ in range(50):
            if not torch.equal(NATIVE.linear(x, weight), want):
                wrong.append(1)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_forked_child_makes_its_own_threads() -> None:
    torch.set_num_threads(2)
    x, weight = torch.randn(8, 256), torch.randn(2048, 256)
    want = NATIVE.linear(x, weight)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(NATIVE.linear(x, weight), want) else 1)
    assert os.waitpid(child, 0)[1] == 0


PRINT = "import torch; from kvasir.platforms.native import native_library as n; print(n(), n().isa)"


@pytest.mark.parametrize(
    ("wish", "said"),
    [("0", "KVASIR_NATIVE is 0"), ("avx9", "may be auto, 0, baseline"), ("baseline", "baseline baseline")],
)
def test_the_switch(wish: str, said: str) -> None:
    environment = {**os.environ, "KVASIR_NATIVE": wish}
    assert said in subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True).stdout


def test_every_op_is_served_by_the_library_where_the_table_says_so() -> None:
    served = {line.op for line in ops.choices("cpu") if line.implementation.startswith("cpp.")}
    assert served >= {"linear", "rms_norm", "silu_and_mul", "rope_and_cache", "paged_attention"}
    assert cpp.DTYPES == (torch.float32, torch.bfloat16)
