"""What each rule promises: optimality, symmetry, and the signal it keeps."""

from __future__ import annotations

import itertools
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt.encode import reference
from ternfmt.encode.methods import METHODS
from ternfmt.encode.quantize import quantize
from ternfmt.tensor import concatenate_rows

ALL = [("absmean", 2), ("exact", 2), ("planes", 2), ("planes", 3), ("planes", 4)]
every_method = pytest.mark.parametrize(("method", "planes"), ALL)

few = settings(max_examples=20, deadline=None)
many = settings(max_examples=100, deadline=None)
seeds = st.integers(0, 2**32 - 1)
short_rows = st.lists(st.one_of(st.floats(-100, 100, width=32), st.integers(-3, 3).map(float)), min_size=1, max_size=9)


def rows_of(seed: int, n: int = 5, k: int = 70) -> np.ndarray:
    """Heavy-tailed float32 rows of different sizes."""
    rng = np.random.default_rng(seed)
    return (rng.standard_t(3, (n, k)) * 2.0 ** rng.integers(-4, 4, (n, 1))).astype(np.float32)


def squared_error(weight: np.ndarray, result) -> float:
    return float(((weight.astype(np.float64) - result.dequantize().astype(np.float64)) ** 2).sum())


def snr(weight: np.ndarray, result) -> float:
    return 10 * np.log10((weight.astype(np.float64) ** 2).sum() / squared_error(weight, result))


def same_bytes(a, b) -> bool:
    return (
        a.shape == b.shape
        and a.group_size == b.group_size
        and a.scale.dtype == b.scale.dtype
        and all(
            p.codes.tobytes() == q.codes.tobytes() and p.scale.tobytes() == q.scale.tobytes()
            for p, q in zip(a.planes, b.planes, strict=True)
        )
    )


@many
@given(short_rows)
def test_exact_finds_the_best_of_all_supports(row):
    magnitudes = [abs(x) for x in row]
    best = max(
        sum(map(Fraction, support)) ** 2 / len(support)
        for size in range(1, len(row) + 1)
        for support in itertools.combinations(magnitudes, size)
    )
    scale = Fraction(reference.exact(magnitudes))
    kept = [Fraction(m) for m in magnitudes if m > scale / 2]
    # The squared error is that of all zeros minus this.
    gain = scale * (2 * sum(kept) - scale * len(kept))
    assert gain >= best * (1 - Fraction(1, 10**14))


@many
@given(short_rows)
def test_exact_with_a_stored_float32_scale_is_within_its_rounding_of_the_best(row):
    weight = np.array([row], dtype=np.float32)
    total = sum(Fraction(x) ** 2 for x in row)
    best = total - max(
        sum(abs(Fraction(x)) for x in support) ** 2 / len(support)
        for size in range(1, len(row) + 1)
        for support in itertools.combinations(row, size)
    )
    error = squared_error(weight, quantize(weight, scale_dtype=np.float32))
    assert error <= float(best) + float(total) * 2.0**-46 + 1e-70


def test_exact_takes_the_smallest_support_on_a_tie():
    # 3^2 / 1 == (3 + 1 + 1 + 1)^2 / 4, and both beat supports of 2 and 3.
    result = quantize(np.array([[3, 1, 1, 1]], dtype=np.float32))
    assert result.scale.tolist() == [3]
    assert result.unpack().tolist() == [[1, 0, 0, 0]]


def test_a_weight_half_way_between_two_levels_takes_the_smaller():
    weight = np.array([[1.5, -0.5]], dtype=np.float32)  # the mean, and so the scale, is 1
    assert quantize(weight, "absmean").unpack().tolist() == [[1, 0]]


@every_method
@few
@given(seed=seeds)
def test_negating_weights_negates_codes(method, planes, seed):
    weight = rows_of(seed)
    a, b = quantize(weight, method, planes=planes), quantize(-weight, method, planes=planes)
    for p in range(len(a.planes)):
        assert np.array_equal(a.unpack(p), -b.unpack(p))
        assert a.planes[p].scale.tobytes() == b.planes[p].scale.tobytes()


@every_method
@few
@given(seed=seeds)
def test_permuting_rows_permutes_the_result(method, planes, seed):
    weight = rows_of(seed)
    order = np.random.default_rng(seed).permutation(len(weight))
    a, b = quantize(weight, method, planes=planes), quantize(weight[order], method, planes=planes)
    for p, q in zip(a.planes, b.planes, strict=True):
        assert np.array_equal(p.codes[order], q.codes)
        assert np.array_equal(p.scale[order], q.scale)


@every_method
@few
@given(seed=seeds)
def test_permuting_columns_permutes_codes_and_keeps_scales(method, planes, seed):
    weight = rows_of(seed)
    order = np.random.default_rng(seed).permutation(weight.shape[1])
    a, b = (
        quantize(weight, method, planes=planes),
        quantize(weight[:, order], method, planes=planes),
    )
    for p in range(len(a.planes)):
        assert np.array_equal(a.unpack(p)[:, order], b.unpack(p))
        assert np.array_equal(a.planes[p].scale, b.planes[p].scale)


@every_method
@few
@given(seed=seeds, exponent=st.integers(-60, 60))
def test_scaling_weights_by_a_power_of_two_scales_the_scales(method, planes, seed, exponent):
    weight = rows_of(seed)
    factor = np.float32(2.0**exponent)
    a = quantize(weight, method, planes=planes, scale_dtype=np.float32)
    b = quantize(weight * factor, method, planes=planes, scale_dtype=np.float32)
    for p, q in zip(a.planes, b.planes, strict=True):
        assert np.array_equal(p.codes, q.codes)
        assert np.array_equal(p.scale * factor, q.scale)


@every_method
@few
@given(seed=seeds, cut=st.integers(1, 4))
def test_quantising_commutes_with_concatenating_rows(method, planes, seed, cut):
    weight = rows_of(seed)
    dtype = np.float32  # the one dtype that does not depend on the other rows
    parts = [quantize(part, method, planes=planes, scale_dtype=dtype) for part in (weight[:cut], weight[cut:])]
    whole = quantize(weight, method, planes=planes, scale_dtype=dtype)
    assert same_bytes(concatenate_rows(parts), whole)


@pytest.mark.parametrize("group_size", [None, 16, 32])
@pytest.mark.parametrize("scale_dtype", [np.float16, np.float32, ml_dtypes.bfloat16])
@few
@given(seed=seeds)
def test_exact_of_its_own_result_is_that_result(group_size, scale_dtype, seed):
    first = quantize(rows_of(seed), group_size=group_size, scale_dtype=scale_dtype)
    again = quantize(first.dequantize(np.float32), group_size=group_size, scale_dtype=first.scale.dtype)
    assert same_bytes(first, again)


@pytest.mark.parametrize("planes", [2, 3, 4])
@few
@given(seed=seeds)
def test_planes_are_never_worse_than_greedy_ones(planes, seed):
    for row in np.abs(rows_of(seed, n=2, k=40)).astype(np.float64).tolist():
        scales = reference.planes(row, planes)
        greedy = reference.greedy(row, planes)

        def error(scales, row=row):
            grid = [level for level, _ in reference.levels(scales)]
            return sum(min((m - level) ** 2 for level in grid) for m in row)

        assert error(scales) <= error(greedy) * (1 + 1e-9) + 1e-18 * sum(m * m for m in row)


@pytest.mark.parametrize("planes", [2, 3, 4])
@few
@given(seed=seeds)
def test_scales_of_planes_descend_and_are_not_negative(planes, seed):
    result = quantize(rows_of(seed, k=11), "planes", planes=planes)
    scales = np.stack([p.scale for p in result.planes]).astype(np.float64)
    assert (np.diff(scales, axis=0) <= 0).all()
    assert not np.signbit(scales).any()


@pytest.mark.parametrize(
    ("method", "planes", "gaussian", "student"),
    [
        ("absmean", 2, 5.75, 4.3),
        ("exact", 2, 7.15, 5.55),
        ("planes", 2, 15.3, 12.0),
        ("planes", 3, 24.0, 18.5),
        ("planes", 4, 32.8, 26.7),
    ],
)
def test_signal_to_noise_of_bell_shaped_rows(method, planes, gaussian, student):
    rng = np.random.default_rng(0)
    for weight, expected in (
        (rng.standard_normal((64, 3072)), gaussian),
        (rng.standard_t(5, (64, 3072)), student),
    ):
        result = quantize(weight.astype(np.float32), method, planes=planes)
        assert snr(weight, result) > expected


def test_methods_are_the_documented_ones():
    assert list(METHODS) == ["absmean", "exact", "planes"]
