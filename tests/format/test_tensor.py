"""Ternary tensors in memory: SPEC section 4, bit for bit."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt import LowRank, Plane, TernaryTensor, concatenate_rows
from ternfmt.pack import pack
from ternfmt_conformance.strategies import SCALE_DTYPES, ternary_tensors
from tests.format.random_tensors import random_tensor

f32 = np.float32


def dequantize_slowly(tensor: TernaryTensor) -> np.ndarray:
    """SPEC S-4.6, one element at a time."""
    group = tensor.group_size or tensor.k
    result = np.empty((tensor.n, tensor.k), f32)
    for n in range(tensor.n):
        for k in range(tensor.k):
            terms = []
            for plane in tensor.planes:
                bits = int(plane.codes[n, k // 4]) >> 2 * (k % 4) & 3
                scale = plane.scale.reshape(tensor.n, -1)[n, k // group]
                terms.append(f32(scale) * f32({0: 0, 1: 1, 3: -1}[bits]))
            total = terms[0]
            for term in terms[1:]:
                total = total + term
            if tensor.low_rank is not None:
                down, up = tensor.low_rank.down, tensor.low_rank.up
                product = f32(up[n, 0]) * f32(down[0, k])
                for r in range(1, len(down)):
                    product = product + f32(up[n, r]) * f32(down[r, k])
                total = total + product
            result[n, k] = total
    return result.reshape(tensor.shape)


@given(ternary_tensors())
@settings(max_examples=60)
def test_dequantize_follows_the_spec_bit_for_bit(tensor: TernaryTensor) -> None:
    with np.errstate(over="ignore"):
        expected = dequantize_slowly(tensor)
    assert tensor.dequantize().tobytes() == expected.tobytes()
    for dtype in (np.float16, ml_dtypes.bfloat16):
        result = tensor.dequantize(dtype)
        assert (result.dtype, result.shape) == (np.dtype(dtype), tensor.shape)
        with np.errstate(over="ignore"):
            assert result.tobytes() == expected.astype(dtype).tobytes()


def one_row(codes: list[list[int]], scales: list[float], dtype: Any = np.float32) -> TernaryTensor:
    planes = tuple(
        Plane(pack(np.array([row], np.int8)), np.array([s], dtype)) for row, s in zip(codes, scales, strict=True)
    )
    return TernaryTensor((1, len(codes[0])), planes)


def test_the_sum_is_rounded_once_to_the_target() -> None:
    # 1 + 2^-9 and 2^-20: rounding planes to bfloat16 one by one would lose the tie-break.
    tensor = one_row([[1, 1], [1, -1]], [1 + 2**-8, 2**-20])
    result = tensor.dequantize(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(result, [[1 + 2**-7, 1]])


def test_ties_round_to_even() -> None:
    half = one_row([[1]], [1 + 2**-11]).dequantize(np.float16)
    assert half == np.float16(1)
    half = one_row([[1]], [1 + 3 * 2**-11]).dequantize(np.float16)
    assert half == np.float16(1 + 2**-9)


def test_scales_below_the_normal_range_are_exact() -> None:
    assert one_row([[1, -1]], [2**-24], np.float16).dequantize().tolist() == [[2**-24, -(2**-24)]]


def test_sums_past_the_largest_number_are_infinite() -> None:
    assert one_row([[1, -1]], [1e6]).dequantize(np.float16).tolist() == [[np.inf, -np.inf]]
    assert one_row([[1, -1]] * 2, [3e38] * 2).dequantize().tolist() == [[np.inf, -np.inf]]


@given(ternary_tensors(), st.data())
@settings(max_examples=60)
def test_slicing_rows_commutes_with_dequantize(tensor: TernaryTensor, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, tensor.n - 1))
    stop = data.draw(st.integers(start + 1, tensor.n))
    rows = tensor[start:stop]
    assert rows.dequantize().tobytes() == tensor.dequantize()[start:stop].tobytes()
    assert np.shares_memory(rows.codes, tensor.codes)


@given(ternary_tensors(features=["group-scale", "planes"]), st.data())
@settings(max_examples=60)
def test_concatenating_rows_commutes_with_dequantize(tensor: TernaryTensor, data: st.DataObject) -> None:
    cuts = sorted({0, tensor.n, data.draw(st.integers(0, tensor.n)), data.draw(st.integers(0, tensor.n))})
    joined = concatenate_rows([tensor[a:b] for a, b in pairwise(cuts)])
    assert joined.shape == tensor.shape
    assert joined.dequantize().tobytes() == tensor.dequantize().tobytes()


@given(ternary_tensors())
@settings(max_examples=30)
def test_nbytes_and_unpack(tensor: TernaryTensor) -> None:
    assert tensor.unpack().shape == tensor.shape
    width = tensor.codes.shape[1]
    planes = len(tensor.planes) * (tensor.n * width + tensor.scale.nbytes)
    factors = 0 if tensor.low_rank is None else tensor.low_rank.down.nbytes + tensor.low_rank.up.nbytes
    assert tensor.nbytes == planes + factors


def test_a_group_far_wider_than_the_row_costs_no_memory() -> None:
    tensor = random_tensor(np.random.default_rng(0), (4, 3), group_size=2**24 - 16)
    tracemalloc.start()
    assert tensor.dequantize().shape == (4, 3)
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_concatenating_refuses_tensors_that_differ() -> None:
    rng = np.random.default_rng(0)
    tensor = random_tensor(rng, (2, 20))
    others = [
        random_tensor(rng, (2, 21)),
        random_tensor(rng, (2, 4, 5)),
        random_tensor(rng, (2, 20), planes=2),
        random_tensor(rng, (2, 20), group_size=32),
        random_tensor(rng, (2, 20), dtype=SCALE_DTYPES[2]),
    ]
    for other in others:
        with pytest.raises(ValueError, match="expected"):
            concatenate_rows([tensor, other])
    with pytest.raises(ValueError, match="low-rank"):
        concatenate_rows([tensor, random_tensor(rng, (2, 20), rank=1)])
    with pytest.raises(ValueError, match="at least one"):
        concatenate_rows([])


@pytest.mark.parametrize("rows", [0, slice(0, 2, 2), slice(None, None, -1), (slice(0, 1), slice(0, 1)), [0]])
def test_other_indexing_is_refused(rows: Any) -> None:
    with pytest.raises(TypeError, match="slice of rows"):
        random_tensor(np.random.default_rng(0), (2, 4))[rows]


CODES, SCALE = np.zeros((2, 5), np.uint8), np.ones(2, np.float16)
PLANE = Plane(CODES, SCALE)
DOWN, UP = np.ones((1, 20), np.float16), np.ones((2, 1), np.float16)


@pytest.mark.parametrize(
    ("shape", "planes", "group_size", "low_rank"),
    [
        ((40,), (PLANE,), None, None),
        ((2, 0), (PLANE,), None, None),
        ((2, 21), (PLANE,), None, None),
        ((3, 20), (PLANE,), None, None),
        ((2, 2**24), (PLANE,), None, None),
        ((2, *[1] * 31, 20), (PLANE,), None, None),
        ((2, 20), (), None, None),
        ((2, 20), (PLANE,) * 5, None, None),
        ((2, 20), (Plane(CODES.astype(np.int8), SCALE),), None, None),
        ((2, 20), (Plane(CODES, SCALE[:1]),), None, None),
        ((2, 20), (Plane(CODES, SCALE[:, None]),), None, None),
        ((2, 20), (Plane(CODES, SCALE.astype(np.float64)),), None, None),
        ((2, 20), (PLANE, Plane(CODES, SCALE.astype(np.float32))), None, None),
        ((2, 20), (PLANE,), 16, None),
        ((2, 20), (Plane(CODES, SCALE[:, None]),), 24, None),
        ((2, 20), (Plane(CODES, SCALE[:, None]),), 0, None),
        ((2, 20), (Plane(CODES, SCALE[:, None]),), 2**24, None),
        ((2, 20), (PLANE,), None, LowRank(DOWN[:0], UP[:, :0])),
        ((2, 20), (PLANE,), None, LowRank(DOWN[:, :19], UP)),
        ((2, 20), (PLANE,), None, LowRank(DOWN, UP[:1])),
        ((2, 20), (PLANE,), None, LowRank(DOWN, UP.astype(np.float32))),
        ((2, 20), (PLANE,), None, LowRank(DOWN.astype(np.float64), UP.astype(np.float64))),
        ((2, 20), (PLANE,), None, LowRank(np.ones((21, 20), np.float16), np.ones((2, 21), np.float16))),
    ],
)
def test_parts_that_do_not_fit_are_refused(shape, planes, group_size, low_rank) -> None:
    with pytest.raises(ValueError, match="expected"):
        TernaryTensor(shape, planes, group_size, low_rank)
