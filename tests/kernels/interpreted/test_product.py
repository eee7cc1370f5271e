"""The product against float64 and SPEC's bound (S-12), every feature drawn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ternfmt_kernels import linear, matmul
from ternfmt_kernels.contract import FLOAT_DTYPES
from ternfmt_kernels.triton_backend import configs
from tests.kernels.test_product import check_linear, make_weight, make_x

HALF = (torch.float16, torch.bfloat16)


@pytest.fixture(autouse=True)
def force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERNFMT_KERNEL", "triton")


@settings(max_examples=14)
@given(
    seed=st.integers(0, 2**32 - 1),
    leading=st.lists(st.integers(0, 4), max_size=2),
    n=st.integers(1, 90),
    k=st.integers(1, 400),
    planes=st.integers(1, 4),
    group_size=st.none() | st.sampled_from([16, 48, 64, 128, 256]),
    scale_dtype=st.sampled_from(FLOAT_DTYPES),
    x_dtype=st.sampled_from(HALF),
    bias=st.booleans(),
    rank=st.sampled_from([0, 0, 3, 40]),
    int8=st.booleans(),
)
@example(0, [33], 70, 320, 1, None, torch.float16, torch.bfloat16, True, 20, False)
@example(1, [70], 65, 512, 1, 256, torch.float32, torch.float16, False, 0, True)
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


@settings(max_examples=5)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 20),
    n=st.integers(1, 70),
    k=st.integers(1, 300),
    planes=st.integers(1, 2),
    group_size=st.none() | st.just(32),
    dtype=st.sampled_from(HALF),
)
def test_exact_for_integers_and_powers_of_two(
    seed: int, m: int, n: int, k: int, planes: int, group_size: int | None, dtype: torch.dtype
) -> None:
    """S-12.3, in 16 bits and in int8: amax is 127, so that quantising leaves integers as they are."""
    rng = np.random.default_rng(seed)
    weight = make_weight(rng, n, k, planes, group_size, torch.float16, power_of_two=True)
    x = torch.from_numpy(rng.integers(-127, 128, (m, k))).to(dtype)
    exact = x.double() @ weight.dense.sum(0).T
    args = (weight.codes, weight.scales, k, group_size)
    assert torch.equal(matmul(x, *args, torch.float32).double(), exact)
    x[:, 0] = 127
    exact = (x.double() @ weight.dense.sum(0).T).to(dtype)
    assert torch.equal(linear(x, *args, int8=True), exact)


TILES = list(itertools.product([16, 32], [16, 64], [16, 32], [1, 4]))


@pytest.mark.parametrize(("bm", "bn", "bw", "split"), [TILES[i] for i in (1, 6, 13)])
@pytest.mark.parametrize("int8", [False, True])
def test_tiles_and_splits(bm, bn, bw, split, int8, monkeypatch) -> None:
    """Whatever the configuration: several tiles each way, several chunks, more parts of K than chunks."""
    bw *= 2 if int8 else 1
    config = configs.Config(bm, bn, bw, 4, 1, split, band=2)
    monkeypatch.setattr(configs, "shipped", lambda *args: config)
    rng = np.random.default_rng(bm + bn + bw)
    weight = make_weight(rng, 67, 530, planes=2, group_size=128 if split == 1 else None)
    factors = (make_x(rng, (17, 530), torch.float16), make_x(rng, (67, 17), torch.float16))
    bias = make_x(rng, (67,), torch.float32)
    check_linear(weight, make_x(rng, (18, 530), torch.bfloat16), bias=bias, factors=factors, int8=int8)


def test_split_sums_have_the_same_bits_every_time(monkeypatch) -> None:
    config = configs.Config(16, 64, 16, 4, 1, split=8)
    monkeypatch.setattr(configs, "shipped", lambda *args: config)
    rng = np.random.default_rng(0)
    weight = make_weight(rng, 64, 2048)
    x = make_x(rng, (2, 2048), torch.bfloat16)
    args = (x, weight.codes, weight.scales, 2048, None, torch.float32)
    assert torch.equal(matmul(*args), matmul(*args))


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("k", [1, 3, 5, 62])
def test_nothing_past_k_reaches_a_result(k: int, int8: bool) -> None:
    """S-12.5: NaN beside x in memory, and any codes in the pad lanes."""
    rng = np.random.default_rng(k)
    weight = make_weight(rng, 9, k)
    memory = torch.full((4, k + 8), torch.nan, dtype=torch.bfloat16)
    memory[:, :k] = make_x(rng, (4, k), torch.bfloat16)
    clean = linear(memory[:, :k].clone(), weight.codes, weight.scales, k, None, int8=int8)
    codes = weight.codes[0].clone()
    if k % 4:
        codes[:, -1] |= 0xFF << 2 * (k % 4) & 0xFF
    assert torch.equal(clean, linear(memory[:, :k], [codes], weight.scales, k, None, int8=int8))


@pytest.mark.parametrize("int8", [False, True])
def test_a_bad_row_of_x_leaves_the_others_alone(int8: bool) -> None:
    """S-12.5."""
    rng = np.random.default_rng(4)
    weight = make_weight(rng, 20, 70, group_size=16)
    x = make_x(rng, (5, 70), torch.bfloat16)
    args = (weight.codes, weight.scales, 70, 16)
    clean = linear(x, *args, int8=int8)
    x[2, 3], x[2, 69] = torch.nan, torch.inf
    with np.errstate(invalid="ignore"):
        assert torch.equal(linear(x, *args, int8=int8)[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


@pytest.mark.parametrize("int8", [False, True])
def test_any_strides(int8: bool) -> None:
    rng = np.random.default_rng(1)
    weight = make_weight(rng, 33, 65)
    base = make_x(rng, (65, 6, 2), torch.float16)
    for x in (base.permute(1, 2, 0), base[:, ::2, 0].T, base[:, :1, 0].T.expand(3, 65)):
        assert not x.is_contiguous()
        check_linear(weight, x, int8=int8)


def test_rows_of_codes_at_an_odd_address() -> None:
    """They cannot be read as 16-bit words."""
    rng = np.random.default_rng(5)
    weight = make_weight(rng, 12, 80)
    memory = torch.empty(12 * 20 + 1, dtype=torch.uint8)
    weight.codes[0] = memory[1:].view(12, 20).copy_(weight.codes[0])
    assert weight.codes[0].data_ptr() % 2
    check_linear(weight, make_x(rng, (3, 80), torch.bfloat16), int8=False)


@pytest.mark.parametrize("shape", [(0, 40), (2, 0, 40)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    weight = make_weight(np.random.default_rng(0), 7, 40)
    y = linear(torch.empty(shape, dtype=torch.bfloat16), weight.codes, weight.scales, 40, None, torch.ones(7))
    assert y.shape == (*shape[:-1], 7)
