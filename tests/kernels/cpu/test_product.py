"""The product against float64 and SPEC's bound (S-12), every feature drawn; against the scalar twin, bit for bit."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from ternfmt.pack import pack
from ternfmt_kernels import linear, matmul
from ternfmt_kernels.contract import FLOAT_DTYPES
from ternfmt_kernels.cpu_backend import isa
from ternfmt_kernels.reference import quantise_rows
from tests.kernels.test_product import check_linear, make_weight, make_x

pytestmark = pytest.mark.usefixtures("name")
both_modes = pytest.mark.parametrize("int8", [False, True], ids=["a16", "a8"])


@pytest.fixture(autouse=True)
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernels should write holds NaN before they run."""
    new_empty = torch.Tensor.new_empty

    def poisoned(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        tensor = new_empty(self, *args, **kwargs)
        return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


@settings(max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    leading=st.lists(st.integers(0, 6), max_size=2),
    n=st.integers(1, 90),
    k=st.one_of(st.integers(1, 300), st.integers(900, 1500)),
    planes=st.integers(1, 4),
    group_size=st.none() | st.sampled_from([16, 48, 64, 128, 192, 256, 1024]),
    scale_dtype=st.sampled_from(FLOAT_DTYPES),
    x_dtype=st.sampled_from(FLOAT_DTYPES),
    bias=st.booleans(),
    rank=st.sampled_from([0, 0, 3, 40]),
    int8=st.booleans(),
)
@example(0, [33], 70, 320, 1, None, torch.float16, torch.bfloat16, True, 20, False)
@example(1, [201], 65, 512, 1, 256, torch.float32, torch.float16, False, 0, True)
@example(2, [], 1, 1, 1, None, torch.float32, torch.float32, True, 0, True)
def test_within_the_bound(
    seed: int,
    leading: list[int],
    n: int,
    k: int,
    planes: int,
    group_size: int | None,
    scale_dtype: torch.dtype,
    x_dtype: torch.dtype,
    bias: bool,
    rank: int,
    int8: bool,
) -> None:
    rng = np.random.default_rng(seed)
    weight = make_weight(rng, n, k, planes, group_size, scale_dtype)
    factors = (make_x(rng, (rank, k), torch.bfloat16), make_x(rng, (n, rank), torch.bfloat16)) if rank else None
    x = make_x(rng, (*leading, k), x_dtype)
    check_linear(weight, x, bias=make_x(rng, (n,), x_dtype) if bias else None, factors=factors, int8=int8)


@both_modes
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 16, 17, 193])
def test_every_number_of_rows(m: int, int8: bool, name: str) -> None:
    """Of both regimes, over chunks of columns and the end of a row."""
    rng = np.random.default_rng(m)
    weight = make_weight(rng, 37, 300 if name == "scalar" else 2100)
    check_linear(weight, make_x(rng, (m, weight.dense.shape[2]), torch.bfloat16), int8=int8)


@both_modes
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 20),
    n=st.integers(1, 70),
    k=st.integers(1, 700),
    planes=st.integers(1, 3),
    group_size=st.none() | st.sampled_from([16, 32, 64, 128, 512]),
    dtype=st.sampled_from(FLOAT_DTYPES),
)
def test_exact_for_integers_and_powers_of_two(
    int8: bool, seed: int, m: int, n: int, k: int, planes: int, group_size: int | None, dtype: torch.dtype
) -> None:
    """S-12.3. amax is 127, so that quantising leaves integers as they are; so every instruction set gives the same."""
    rng = np.random.default_rng(seed)
    weight = make_weight(rng, n, k, planes, group_size, torch.float16, power_of_two=True)
    x = torch.from_numpy(rng.integers(-127, 128, (m, k))).to(dtype)
    x[:, 0] = 127
    exact = x.double() @ weight.dense.sum(0).T
    args = (weight.codes, weight.scales, k, group_size)
    assert torch.equal(linear(x, *args, int8=int8), exact.to(dtype))
    if not int8:
        assert torch.equal(matmul(x, *args, torch.float32).double(), exact)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    exponents=st.sampled_from([(0, 1), (-30, 30), (-99, -95), (-105, -99), (-149, -120), (100, 127)]),
    dtype=st.sampled_from(FLOAT_DTYPES),
    k=st.integers(1, 70),
)
def test_activations_are_quantised_to_the_bits_of_the_reference(
    seed: int, exponents: tuple[int, int], dtype: torch.dtype, k: int
) -> None:
    """Read off a product with the identity: q times scale, in float32."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((3, k)) * 2.0 ** rng.integers(*exponents, (3, k))
    x = torch.from_numpy(values.clip(-6e4, 6e4) if dtype == torch.float16 else values).to(dtype)
    x[0, rng.integers(k)] = 0
    codes = torch.from_numpy(pack(np.eye(k, dtype=np.int8)))
    q, scale = quantise_rows(x)
    y = linear(x, [codes], [torch.ones(k)], k, None, int8=True)
    assert torch.equal(y, (q.float() * scale[:, None]).to(dtype))


@pytest.mark.parametrize("m", [1, 3])
@pytest.mark.parametrize("code", [1, -1])
@pytest.mark.parametrize("k", [4096, (1 << 24) - 1])
def test_sums_do_not_overflow(code: int, k: int, m: int, name: str) -> None:
    """All codes +1 or -1, all activations 127: for the longest row that SPEC allows, 0.8% below 2^31."""
    if name == "scalar" and k > 4096 and m > 1:
        pytest.skip("half a minute; one row of it is tested")
    codes = torch.full((1, -(-k // 4)), 0x55 if code == 1 else 0xFF, dtype=torch.uint8)
    for value in (127.0, -127.0):
        x = torch.tensor([[value]], dtype=torch.bfloat16).expand(m, k)
        y = linear(x, [codes], [torch.ones(1)], k, None, int8=True)
        assert torch.equal(y, torch.full((m, 1), code * value * k).to(torch.bfloat16))


@pytest.mark.parametrize("seed", range(4))
def test_worst_activations_for_narrow_sums(seed: int) -> None:
    """|x| is 127 wherever the code would push a 16-bit sum one way."""
    rng = np.random.default_rng(seed)
    for sign in (1, -1):
        codes = rng.choice([sign, 0, -sign], (17, 5000), p=[0.9, 0.05, 0.05]).astype(np.int8)
        x = torch.from_numpy((127 * sign * rng.choice([1, -1], (5, 5000), p=[0.98, 0.02])).astype(np.float32))
        exact = x.double() @ torch.from_numpy(codes).double().T
        for rows in (x, x[:1]):
            y = linear(rows, [torch.from_numpy(pack(codes))], [torch.ones(17)], 5000, None, int8=True)
            assert torch.equal(y.double(), exact[: len(rows)])


@both_modes
@pytest.mark.parametrize("m", [1, 4, 9])
@pytest.mark.parametrize("k", [1, 3, 5, 62, 131])
def test_nothing_past_k_reaches_a_result(k: int, m: int, int8: bool) -> None:
    """S-12.5: NaN beside x in memory, and any codes in the pad lanes."""
    rng = np.random.default_rng(k)
    weight = make_weight(rng, 9, k)
    memory = torch.full((m, k + 8), torch.nan, dtype=torch.bfloat16)
    memory[:, :k] = make_x(rng, (m, k), torch.bfloat16)
    clean = linear(memory[:, :k].clone(), weight.codes, weight.scales, k, None, int8=int8)
    for garbage in (0xFF, 0xAA, 0x55):
        codes = weight.codes[0].clone()
        if k % 4:
            codes[:, -1] = codes[:, -1] & (1 << 2 * (k % 4)) - 1 | garbage << 2 * (k % 4) & 0xFF
        assert torch.equal(clean, linear(memory[:, :k], [codes], weight.scales, k, None, int8=int8))


LARGEST = torch.finfo(torch.bfloat16).max


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("m", [1, 5, 40])
def test_only_results_that_are_too_large_are_infinite(m: int, dtype: torch.dtype) -> None:
    """Activations up to the largest, alone and where they cancel; and many whose sum is just below the largest."""
    codes = np.zeros((3, 70), np.int8)
    codes[0, 0] = codes[1, 1] = codes[2, :2] = 1
    scales = torch.tensor([1.0, 2.0**-10, 2.0**-10])
    x = torch.zeros(m, 70, dtype=dtype)
    for largest in (6e4,) if dtype == torch.float16 else (6e4, 2.0**102, 2.0**126, 2e38, LARGEST):
        x[:, 0], x[:, 1] = largest, -largest
        y = matmul(x, [torch.from_numpy(pack(codes))], [scales], 70, None, torch.float32)
        rounded = x[0, 0].item()
        assert torch.equal(y, torch.tensor([rounded, -rounded / 1024, 0]).expand(m, -1))
    ones = torch.from_numpy(pack(np.ones((1, 64), np.int8)))
    x = torch.full((m, 64), 2.0**9 if dtype == torch.float16 else 2.0**121, dtype=dtype)
    y = matmul(x, [ones], [torch.ones(1)], 64, None, torch.float32)
    assert torch.equal(y, x[:, :1].float() * 64)


@pytest.mark.parametrize("m", [1, 5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_small_activations_beside_the_largest_are_not_lost(dtype: torch.dtype, m: int) -> None:
    for largest, small, scale in ((2.0**127, 2.0**-50, 1.0), (2.0**60, 2.0**-60, 2.0**-24), (2.0**21, 2.0**-126, 8.0)):
        x = torch.tensor([[largest, small * 1.5]]).to(dtype).expand(m, 2)
        y = matmul(
            x, [torch.from_numpy(pack(np.array([[0, 1]], np.int8)))], [torch.tensor([scale])], 2, None, torch.float32
        )
        assert torch.equal(y, torch.full((m, 1), small * 1.5 * scale))


@pytest.mark.parametrize("group_size", [None, 32])
@pytest.mark.parametrize("m", [1, 5, 40])
@pytest.mark.parametrize(
    ("value", "scale", "int8"),
    [
        (1.0, 1e36, True),
        (1.0, 2.0**-130, True),
        (2.0**-90, 2.0**120, True),
        (1e38, 1e-3, True),
        (2.0**-60, 2.0**100, False),
        (2.0**-99, 2.0**127, False),
        (1e5, 2.0**-126, False),
    ],
)
def test_scales_of_any_size(value: float, scale: float, int8: bool, m: int, group_size: int | None) -> None:
    """Products with x's scale and the weight's overflow or vanish only where results do (S-12.2)."""
    x = torch.full((m, 64), value).bfloat16()
    codes = torch.from_numpy(pack(np.ones((1, 64), np.int8)))
    scales = torch.full((1,) if group_size is None else (1, 2), scale)
    y = linear(x.float() if int8 else x, [codes], [scales], 64, group_size, int8=int8).double()
    expected = x.double().sum(1, keepdim=True) * scales.double().mean()
    torch.testing.assert_close(y, expected, rtol=1e-6 if int8 else 2.0**-8, atol=0)


@both_modes
@pytest.mark.parametrize("group_size", [None, 16])
@pytest.mark.parametrize("m", [2, 5, 40])
def test_a_bad_row_of_x_leaves_the_others_alone(m: int, group_size: int | None, int8: bool) -> None:
    """S-12.5."""
    rng = np.random.default_rng(4)
    weight = make_weight(rng, 20, 70, group_size=group_size)
    x = make_x(rng, (m, 70), torch.bfloat16)
    args = (weight.codes, weight.scales, 70, group_size)
    clean = linear(x, *args, int8=int8)
    x[1, 3], x[1, 69] = torch.nan, torch.inf
    others = [i for i in range(m) if i != 1]
    assert torch.equal(linear(x, *args, int8=int8)[others], clean[others])


@both_modes
def test_any_strides(int8: bool) -> None:
    rng = np.random.default_rng(1)
    weight = make_weight(rng, 33, 65)
    for dtype in FLOAT_DTYPES:
        base = make_x(rng, (65, 6, 2), dtype)
        for x in (base.permute(1, 2, 0), base[:, ::2, 0].T, base[:, :1, 0].T.expand(3, 65)):
            assert not x.is_contiguous()
            check_linear(weight, x, int8=int8)


@both_modes
def test_tensors_at_odd_addresses(int8: bool) -> None:
    rng = np.random.default_rng(6)
    weight = make_weight(rng, 12, 81)
    x, bias = make_x(rng, (3, 81), torch.float32), make_x(rng, (12,), torch.bfloat16)
    factors = make_x(rng, (2, 81), torch.float16), make_x(rng, (12, 2), torch.float16)

    def product(x: Tensor, scales: Tensor, bias: Tensor, down: Tensor, up: Tensor) -> Tensor:
        with torch.no_grad():
            return linear(x, weight.codes, [scales], 81, None, bias, down, up, int8)

    tensors = (x, weight.scales[0], bias, *factors)
    assert torch.equal(product(*map(odd, tensors)), product(*tensors))


def odd(tensor: Tensor) -> Tensor:
    """The same values, one byte further than where they may lie."""
    memory = bytearray(b"x" + tensor.flatten().view(torch.uint8).numpy().tobytes())
    moved = torch.frombuffer(memory, dtype=tensor.dtype, offset=1).view(tensor.shape)
    assert moved.data_ptr() % moved.itemsize
    return moved


@both_modes
def test_codes_of_a_mapped_file_at_any_address(int8: bool, tmp_path: Path) -> None:
    """Read-only memory, rows that begin at odd addresses, the last of them where the file ends."""
    rng = np.random.default_rng(5)
    weight = make_weight(rng, 12, 81)
    path = tmp_path / "codes"
    path.write_bytes(b"x" + weight.codes[0].numpy().tobytes())
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        weight.codes[0] = torch.frombuffer(mapped, dtype=torch.uint8)[1:].view(12, 21)
        assert weight.codes[0].data_ptr() % 2
        for m in (1, 3, 20):
            check_linear(weight, make_x(rng, (m, 81), torch.bfloat16), int8=int8)
        weight.codes.clear()


@both_modes
@pytest.mark.parametrize("shape", [(0, 40), (2, 0, 40)])
def test_no_rows(shape: tuple[int, ...], int8: bool) -> None:
    weight = make_weight(np.random.default_rng(0), 7, 40)
    y = linear(torch.empty(shape), weight.codes, weight.scales, 40, None, torch.ones(7), int8=int8)
    assert y.shape == (*shape[:-1], 7)
    empty = linear(torch.ones(3, 40), [torch.empty(0, 10, dtype=torch.uint8)], [torch.empty(0)], 40, None, int8=int8)
    assert empty.shape == (3, 0)


@both_modes
@pytest.mark.parametrize("m", [1, 20])
def test_float16_and_bfloat16_round_to_even(m: int, int8: bool) -> None:
    """Results half way between two numbers, subnormal, too large: those of torch's own cast."""
    values = torch.tensor(
        [1 + 2.0**-11, 1 + 3 * 2.0**-11, 1 + 2.0**-8, 1 + 3 * 2.0**-8, 65519.9, 65520, 3e-8, -2e-8, 0]
    )
    codes = torch.from_numpy(pack(np.ones((len(values), 1), dtype=np.int8)))
    for dtype in (torch.float16, torch.bfloat16):
        y = linear(torch.ones(m, 1, dtype=dtype), [codes], [values], 1, None, int8=int8)
        expected = values if not int8 else values * torch.tensor(127.0) * (torch.tensor(1.0) / 127)
        assert torch.equal(y, expected.to(dtype).expand(m, -1))


@both_modes
@pytest.mark.parametrize("m", [1, 8, 30, 400])
@pytest.mark.parametrize("group_size", [None, 32, 64, 128])
def test_threads_do_not_show(m: int, group_size: int | None, int8: bool, threads, name: str) -> None:
    """Products with enough work for several, for several rows at least."""
    rng = np.random.default_rng(0)
    n, k = (60, 96) if name == "scalar" else (700, 1500)
    weight = make_weight(rng, n, k, 2, group_size)
    x = make_x(rng, (m, k), torch.float32)
    args = (x, weight.codes, weight.scales, k, group_size, make_x(rng, (n,), torch.float32))
    threads(1)
    alone = linear(*args, int8=int8)
    for count in (2, 3, 7):
        threads(count)
        assert torch.equal(linear(*args, int8=int8), alone)


@both_modes
def test_threads_do_not_show_where_subnormal_numbers_are_flushed(int8: bool, threads, name: str) -> None:
    """The caller's mode is every thread's: results below 2^-126 are all there, or all zeros."""
    n, k = (400, 1024) if name == "scalar" else (4096, 1024)
    weight = make_weight(np.random.default_rng(0), n, k, dtype=torch.float32)
    weight.scales[0].fill_(2.0**-120)
    x = torch.full((16, k), 2.0**-12)
    args = (x, weight.codes, weight.scales, k, None)
    for flush in (False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot")
        try:
            threads(1)
            alone = linear(*args, int8=int8)
            threads(3)
            together = [linear(*args, int8=int8) for _ in range(8)]
        finally:
            torch.set_flush_denormal(False)
        assert alone.view(torch.int32).count_nonzero() > 0.5 * alone.numel() or flush
        assert all(torch.equal(y.view(torch.int32), alone.view(torch.int32)) for y in together)


def test_every_instruction_set_gives_the_integers_of_the_scalar_twin(name: str, monkeypatch) -> None:
    rng = np.random.default_rng(9)
    weight = make_weight(rng, 50, 777)
    x = make_x(rng, (11, 777), torch.bfloat16)
    args = (weight.codes, weight.scales, 777, None)
    found = [linear(rows, *args, int8=True) for rows in (x[:1], x)]
    monkeypatch.setenv(isa.VARIABLE, "scalar")
    assert all(torch.equal(a, linear(rows, *args, int8=True)) for a, rows in zip(found, (x[:1], x), strict=True))


def zeros(count: int) -> Tensor:
    """Bytes that take no memory until they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return torch.frombuffer(mmap.mmap(-1, count, flags=flags), dtype=torch.uint8)


@both_modes
def test_more_than_2_to_the_31_weights(int8: bool, name: str) -> None:
    """Zeros, but for a code at the start, at 2^31 codes and at the end."""
    if name == "scalar":
        pytest.skip("many seconds; rows far apart are tested below")
    n, k = (1 << 15) + 3, 1 << 16
    codes = zeros(n * k // 4).view(n, k // 4)
    places = [0, 1 << 15, n - 1]
    codes[places, -1] = 0x40
    x = torch.zeros(1, k, dtype=torch.bfloat16)
    x[0, -1] = 3
    y = linear(x, [codes], [torch.ones(n)], k, None, int8=int8)
    assert y.nonzero().tolist() == [[0, place] for place in places]
    assert y[0, places].tolist() == [3, 3, 3]


@both_modes
@pytest.mark.parametrize("m", [1, 7, 20])
def test_the_last_row_is_2_to_the_31_bytes_away(m: int, int8: bool, name: str) -> None:
    """Rows of codes that the native code is told to find there, and rows of x."""
    rng = np.random.default_rng(m)
    n, k = 5, 300
    weight = make_weight(rng, n, k)
    x = make_x(rng, (m, k), torch.float32)
    expected = linear(x, weight.codes, weight.scales, k, None, int8=int8)

    apart = (1 << 31) // (n - 1) + 1
    codes = zeros(n * apart)
    codes.as_strided((n, k // 4), (apart, 1)).copy_(weight.codes[0])
    stride = (1 << 29) // max(1, m - 1) + 1
    memory = zeros(4 * m * stride).view(torch.float32)
    far = memory.as_strided((m, k), (stride, 1))
    far.copy_(x)
    y = torch.full((m, n), torch.nan)
    isa.module().matmul(
        name,
        int8,
        2,
        (far.data_ptr(), memory.nbytes, "float32", m, k, *far.stride()),
        (
            n,
            0,
            apart,
            ((codes.data_ptr(), codes.nbytes),),
            str(weight.scales[0].dtype).removeprefix("torch."),
            ((weight.scales[0].data_ptr(), weight.scales[0].nbytes),),
        ),
        None,
        None,
        (y.data_ptr(), y.nbytes, "float32"),
    )
    assert torch.equal(y, expected)
