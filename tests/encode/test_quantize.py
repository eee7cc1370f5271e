"""`quantize` gives the scalar reference's bits for every input it accepts, and refuses the rest."""

from __future__ import annotations

import pickle

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ternfmt.encode import quantize as module
from ternfmt.encode import reference
from ternfmt.encode.quantize import quantize
from ternfmt.encode.weights import WeightError, floor_bits
from ternfmt.pack import check_codes, pack
from ternfmt.tensor import Plane, TernaryTensor

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = [np.dtype(np.float32), np.dtype(np.float16), BF16]
ALL = [("absmean", 2), ("exact", 2), ("planes", 2), ("planes", 3), ("planes", 4)]
few = settings(max_examples=20, deadline=None)
every_method = pytest.mark.parametrize(("method", "planes"), ALL)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@st.composite
def weights(draw, dtype: np.dtype, max_k: int = 36) -> np.ndarray:
    """Finite weights: any bit patterns (denormals, -0.0, the largest), or few values, or a bell."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, max_k)))
    kind = draw(st.sampled_from(["bits", "few values", "bell"]))
    if kind == "bits":
        unsigned = np.dtype(f"u{dtype.itemsize}")
        values = draw(hnp.arrays(unsigned, shape)).view(dtype)
        return np.where(np.isfinite(values.astype(np.float64)), values, dtype.type(1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if kind == "few values":
        return (rng.integers(-6, 7, shape) * 0.25).astype(dtype)
    return (rng.standard_t(4, shape) * 0.02).astype(dtype)


def quantize_by_reference(weight, method, planes, group_size, scale_dtype) -> TernaryTensor:
    n, k = weight.shape
    size = group_size or k
    starts = range(0, k, size)
    rows = weight.astype(np.float64).tolist()
    if method == "planes":
        rule = lambda group: reference.planes(group, planes)  # noqa: E731
    else:
        rule = lambda group: [getattr(reference, method)(group)]  # noqa: E731
    unrounded = np.array([[rule([abs(w) for w in row[i : i + size]]) for i in starts] for row in rows])
    dtype, stored = reference.stored_scales(unrounded.ravel().tolist(), str(np.dtype(scale_dtype)))
    scales = np.array(stored).reshape(unrounded.shape)
    codes = np.array(
        [
            [reference.nearest_codes(w, scales[r, c // size].tolist()) for c, w in enumerate(row)]
            for r, row in enumerate(rows)
        ],
        dtype=np.int8,
    )
    shape = (n,) if group_size is None else (n, len(starts))
    return TernaryTensor(
        weight.shape,
        tuple(
            Plane(
                pack(np.ascontiguousarray(codes[:, :, p])),
                scales[:, :, p].reshape(shape).astype(np.dtype(dtype)),
            )
            for p in range(codes.shape[2])
        ),
        group_size,
    )


def assert_same_bytes(actual: TernaryTensor, expected: TernaryTensor) -> None:
    assert actual.shape == expected.shape
    assert actual.scale.dtype == expected.scale.dtype
    assert len(actual.planes) == len(expected.planes)
    for a, e in zip(actual.planes, expected.planes, strict=True):
        assert a.scale.tobytes() == e.scale.tobytes()
        assert a.codes.tobytes() == e.codes.tobytes()


def bell(n: int, k: int, dtype=np.float32, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((n, k)) * 0.02).astype(dtype)


@every_method
@every_dtype
@few
@given(data=st.data())
def test_bits_are_those_of_the_reference(method, planes, dtype, data):
    weight = data.draw(weights(dtype))
    group_size = data.draw(st.sampled_from([None, 16, 32]))
    scale_dtype = data.draw(st.sampled_from(DTYPES))
    actual = quantize(weight, method, planes=planes, group_size=group_size, scale_dtype=scale_dtype)
    assert_same_bytes(actual, quantize_by_reference(weight, method, planes, group_size, scale_dtype))
    for plane in actual.planes:
        check_codes(plane.codes, weight.shape[1], "test")


@every_method
@every_dtype
@pytest.mark.usefixtures("implementation")
def test_bits_are_those_of_the_reference_on_long_rows(method, planes, dtype):
    weight = bell(1, 1531, dtype)
    expected = quantize_by_reference(weight, method, planes, None, np.float16)
    assert_same_bytes(quantize(weight, method, planes=planes), expected)


@every_method
@pytest.mark.parametrize("dtype", [np.float16, BF16], ids=str)
@few
@given(data=st.data())
def test_a_16_bit_weight_and_its_float32_copy_give_the_same_bytes(method, planes, dtype, data):
    weight = data.draw(weights(np.dtype(dtype)))
    assert_same_bytes(
        quantize(weight, method, planes=planes),
        quantize(weight.astype(np.float32), method, planes=planes),
    )


@every_method
@pytest.mark.parametrize("group_size", [None, 48])
def test_threads_and_blocks_do_not_show(method, planes, group_size, monkeypatch):
    weight = bell(37, 203)
    options = {"planes": planes, "group_size": group_size}
    expected = quantize(weight, method, threads=1, **options)
    for block, threads in ((1, 1), (203, 3), (1000, 2), (5000, 8)):
        monkeypatch.setattr(module, "BLOCK_WEIGHTS", block)
        assert_same_bytes(quantize(weight, method, threads=threads, **options), expected)


@every_method
def test_any_memory_layout_gives_the_same_bytes(method, planes, tmp_path):
    weight = bell(12, 24, BF16)
    expected = quantize(weight, method, planes=planes)
    weight.view(np.uint16).tofile(tmp_path / "weight")
    mapped = np.memmap(tmp_path / "weight", np.uint16, "r", shape=weight.shape).view(BF16)
    spaced = np.zeros((24, 48), BF16)[::2, ::2]
    spaced = spaced[:12]
    spaced[...] = weight
    for layout in (mapped, spaced, np.asfortranarray(weight), weight[::-1].copy()[::-1]):
        assert_same_bytes(quantize(layout, method, planes=planes), expected)


def test_trailing_dimensions_are_flattened():
    weight = bell(6, 45)
    conv = quantize(weight.reshape(6, 5, 3, 3))
    flat = quantize(weight)
    assert conv.shape == (6, 5, 3, 3)
    assert conv.codes.tobytes() == flat.codes.tobytes()


def test_a_short_last_group_has_its_own_scale():
    weight = np.ones((2, 37), dtype=np.float32)
    weight[:, 32:] = 4
    result = quantize(weight, group_size=16)
    assert result.scale.tolist() == [[1, 1, 4], [1, 1, 4]]
    assert (result.unpack() == 1).all()


def test_groups_longer_than_the_row_are_one_group():
    weight = bell(3, 20)
    grouped, plain = quantize(weight, group_size=32), quantize(weight)
    assert grouped.scale.shape == (3, 1)
    assert grouped.scale.ravel().tolist() == plain.scale.tolist()


@every_method
def test_rows_of_zeros_have_scale_plus_zero_and_zero_codes(method, planes):
    weight = bell(3, 18)
    weight[1] = 0
    weight[1, ::2] = -0.0
    for plane in quantize(weight, method, planes=planes).planes:
        assert plane.scale[1] == 0
        assert not np.signbit(plane.scale[1])
        assert not plane.codes[1].any()


@every_method
@every_dtype
def test_one_column_is_its_own_scale(method, planes, dtype):
    weight = np.array([[0.5], [-3.0], [0.0]], dtype=dtype)
    result = quantize(weight, method, planes=planes)
    assert np.array_equal(result.dequantize(), weight.astype(np.float32))


@every_method
def test_the_largest_floats_do_not_overflow(method, planes):
    largest = np.finfo(np.float32).max
    weight = np.full((2, 1000), largest, dtype=np.float32)
    weight[1, ::2] *= -1
    result = quantize(weight, method, planes=planes)
    assert result.scale.tolist() == [largest, largest]
    assert np.array_equal(result.dequantize(), weight)


def test_a_scale_past_the_largest_bfloat16_saturates():
    weight = np.full((1, 4), np.finfo(np.float32).max, dtype=np.float32)
    scale = quantize(weight, scale_dtype=BF16).scale
    assert scale == ml_dtypes.finfo(BF16).max


@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=str)
def test_scales_below_the_normal_floats_become_zero(dtype):
    weight = np.full((2, 8), 1e-40, dtype=dtype)
    weight[1] = 1.0
    result = quantize(weight)
    assert result.scale.dtype == np.float16
    assert result.scale.tolist() == [0, 1]
    assert not result.codes[0].any()


def test_float16_denormals_are_ordinary_weights():
    weight = np.full((1, 5), 2.0**-24, dtype=np.float16)
    result = quantize(weight)
    assert result.scale.dtype == np.float32
    assert np.array_equal(result.dequantize(np.float16), weight)


@pytest.mark.parametrize(
    ("scale", "dtype"),
    [(2.0**-14, "float16"), (2.0**-15, "float32"), (65504.0, "float16"), (65505.0, "float32")],
)
@pytest.mark.parametrize("asked", [None, np.float16])
def test_one_scale_outside_the_float16_range_makes_all_float32(scale, dtype, asked):
    weight = np.ones((3, 6), dtype=np.float32)
    weight[1] = scale
    result = quantize(weight, scale_dtype=asked)
    assert result.scale.dtype == dtype
    assert result.scale.tolist() == [1, scale, 1]


def test_planes_share_a_scale_dtype():
    weight = np.array([[1.0, 1.0, 2.0**-15]], dtype=np.float32)
    result = quantize(weight, "planes")
    assert [p.scale.dtype for p in result.planes] == [np.float32, np.float32]
    assert np.array_equal(result.dequantize(), weight)


def test_bfloat16_scales_are_rounded_once():
    # 1 + 2^-8 + 2^-40 rounds up; by way of float32 it would be a tie, and go down to even.
    row = [1 + 2.0**-8] * 3 + [1 + 2.0**-8 + 2.0**-23] + [1 + 2.0**-8] * 1020
    result = quantize(np.array([row], dtype=np.float32), scale_dtype=BF16)
    assert float(result.scale[0]) == 1 + 2.0**-7


def test_codes_are_chosen_for_the_stored_scale():
    # The mean is 2.0005, stored as 2: the second weight lies between the halves of the two.
    weight = np.array([[3.0009, 1.0001]], dtype=np.float32)
    result = quantize(weight, "absmean")
    assert result.scale.tolist() == [2]
    assert result.unpack().tolist() == [[1, 1]]


@every_dtype
@few
@given(st.lists(st.floats(0, 1e39), min_size=1, max_size=8))
def test_floor_bits_is_the_largest_value_not_above(dtype, thresholds):
    t = np.array(thresholds)
    bits = floor_bits(t, dtype)
    below = bits.view(dtype).astype(np.float64)
    above = (bits + bits.dtype.type(1)).view(dtype).astype(np.float64)
    assert (below <= t).all()
    assert ((above > t) | np.isnan(above)).all()


@every_dtype
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.usefixtures("implementation")
def test_nan_and_inf_are_refused_with_their_place(dtype, value, threads, monkeypatch):
    monkeypatch.setattr(module, "BLOCK_WEIGHTS", 100)
    weight = bell(40, 30, dtype).reshape(40, 5, 6)
    weight[7, 3, 2] = value
    weight[31, 0, 0] = value
    with pytest.raises(WeightError, match=r"'x\.weight'.*row 7, column 20;.*keep .* dense") as info:
        quantize(weight, name="x.weight", threads=threads)
    assert (info.value.name, info.value.row, info.value.column) == ("x.weight", 7, 20)
    assert str(pickle.loads(pickle.dumps(info.value))) == str(info.value)


@pytest.mark.parametrize(
    ("weight", "options", "message"),
    [
        (np.ones((2, 2)), {}, "expected float32, float16 or bfloat16 weights, got float64"),
        (np.ones((2, 2), ">f4"), {}, "got >f4"),
        (np.ones(4, np.float32), {}, r"expected rank >= 2.*got \[4\]"),
        (np.ones((0, 4), np.float32), {}, r"got \[0, 4\]"),
        (np.ones((4, 0), np.float32), {}, r"got \[4, 0\]"),
        (np.zeros((1, 1 << 24), np.float16), {}, "K <= 16777215"),
        (np.ones((2, 2), np.float32), {"method": "absmax"}, "expected one of absmean.*'absmax'"),
        (np.ones((2, 2), np.float32), {"method": "planes", "planes": 5}, "expected 2 to 4, got 5"),
        (np.ones((2, 2), np.float32), {"method": "planes", "planes": 1}, "expected 2 to 4, got 1"),
        (np.ones((2, 2), np.float32), {"group_size": 24}, "multiple of 16, got 24"),
        (np.ones((2, 2), np.float32), {"group_size": 0}, "multiple of 16, got 0"),
        (np.ones((2, 2), np.float32), {"scale_dtype": np.float64}, "got float64"),
        (np.ones((2, 2), np.float32), {"threads": 0}, "at least 1, got 0"),
    ],
)
def test_other_arguments_are_refused(weight, options, message):
    with pytest.raises(ValueError, match=message):
        quantize(weight, **options)
