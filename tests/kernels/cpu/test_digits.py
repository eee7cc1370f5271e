"""Activations of 16 bits as digits (kernels/cpu/digits.h): not rounded, whatever their sizes are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ternfmt.pack import pack
from ternfmt_kernels import linear
from tests.kernels.test_product import check_linear, make_weight

pytestmark = pytest.mark.usefixtures("name")

REST_FEWEST = 4
"""Activations of a short row that may be too small for the digits: `rest_limit` of kernels/cpu/digits.h."""


def ternary(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return rng.integers(-1, 2, (n, k)).astype(np.int8)


def product(x: Tensor, codes: np.ndarray) -> Tensor:
    """Scales of one: the sums as they are, rounded to x's dtype."""
    scale = torch.ones(len(codes))
    return linear(x, [torch.from_numpy(pack(codes))], [scale], codes.shape[1], None)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    m=st.integers(1, 6),
    n=st.integers(1, 40),
    k=st.integers(1, 700),
    planes=st.integers(1, 2),
    group_size=st.sampled_from([None, 64, 128, 192, 256]),
    spread=st.sampled_from([0, 4, 12, 30]),
    small=st.integers(0, 5 * REST_FEWEST),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_within_the_bound_whatever_the_sizes_of_activations(
    seed: int,
    m: int,
    n: int,
    k: int,
    planes: int,
    group_size: int | None,
    spread: int,
    small: int,
    dtype: torch.dtype,
) -> None:
    """Magnitudes up to 2^-spread apart, and some that are smaller still: as many as fit a rest, and more."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((m, k)) * 2.0 ** -rng.integers(0, spread + 1, (m, k))
    x[:, rng.integers(0, k, small)] *= 2.0**-12
    check_linear(make_weight(rng, n, k, planes, group_size), torch.from_numpy(x).to(dtype), int8=False)


@pytest.mark.parametrize("small", [1, REST_FEWEST, REST_FEWEST + 1])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_activations_count_where_large_ones_meet_zeros(small: int, dtype: torch.dtype) -> None:
    codes = np.zeros((3, 40), np.int8)
    codes[:, 1 : 1 + small] = [[1], [-1], [1]]
    codes[2, 2:4] = [-1, 0]
    x = torch.zeros(1, 40)
    x[0, 0] = 1000.0
    x[0, 1 : 1 + small] = torch.arange(1, small + 1) * 2.0**-18
    y = product(x.to(dtype), codes)
    assert torch.equal(y, (x.to(dtype).double() @ torch.from_numpy(codes).double().T).to(dtype))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1), m=st.integers(1, 5), k=st.integers(1, 3000), exponent=st.sampled_from([-90, 0, 21])
)
def test_sums_have_one_rounding(seed: int, m: int, k: int, exponent: int) -> None:
    """Exact sums of bfloat16 values within a factor of 2^13, rounded to float32 and then to bfloat16."""
    rng = np.random.default_rng(seed)
    codes = ternary(rng, 7, k)
    values = rng.choice([-1.0, 1.0], (m, k)) * 2.0 ** rng.uniform(exponent - 13, exponent, (m, k))
    x = torch.from_numpy(values).bfloat16()
    exact = x.double() @ torch.from_numpy(codes).double().T
    y = product(x, codes)
    assert torch.equal(y, exact.float().bfloat16())


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_rows_that_are_not_finite_leave_others_alone(bad: float) -> None:
    rng = np.random.default_rng(0)
    codes = ternary(rng, 20, 300)
    x = torch.from_numpy(rng.standard_normal((3, 300))).bfloat16()
    expected = (x.double() @ torch.from_numpy(codes).double().T).bfloat16()
    x[1, 7] = bad
    y = product(x, codes)
    for row in (0, 2):
        torch.testing.assert_close(y[row], expected[row])


@pytest.mark.parametrize("value", [0.0, 2.0**-133, 2.0**-110, 2.0**110, 2.0**127])
def test_rows_of_any_size(value: float) -> None:
    codes = np.eye(5, dtype=np.int8)
    x = torch.tensor([[1.0, -1.0, 0.5, 0.0, 0.25]]).bfloat16() * value
    assert torch.equal(product(x, codes), x)
