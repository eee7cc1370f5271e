"""The histogram form of ``exact`` gives the bits that sorting gives."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ternfmt.encode import histogram
from ternfmt.encode.methods import exact
from ternfmt.encode.spectrum import Spectrum
from ternfmt.encode.weights import magnitude_bits

DTYPES = [np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)]


def rows_of(kind: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    if kind == "gaussian":
        return rng.standard_normal(shape)
    if kind == "heavy tails":
        return rng.standard_t(2, shape)
    if kind == "few values":
        return rng.integers(-2, 3, shape) * 0.0625
    return np.where(rng.random(shape) < 0.01, 1.0, 0.0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@given(
    kind=st.sampled_from(["gaussian", "heavy tails", "few values", "almost all zero"]),
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 6),
    columns=st.integers(1, 5000),
    exponent=st.integers(-12, 3),
)
def test_it_equals_the_sort_bit_for_bit(
    dtype: np.dtype, kind: str, seed: int, rows: int, columns: int, exponent: int
) -> None:
    weight = rows_of(kind, np.random.default_rng(seed), (rows, columns)) * 2.0**exponent
    bits = magnitude_bits(np.clip(weight, -60000, 60000).astype(dtype))
    found = histogram.exact_scales(bits, dtype)
    if found is not None:
        assert found.tobytes() == exact(Spectrum.of(bits, dtype), 1)[:, 0].tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_used_for_rows_like_those_of_a_model(dtype: np.dtype) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 12288)).astype(dtype)
    assert histogram.exact_scales(magnitude_bits(weight), dtype) is not None


def test_float32_and_short_rows_are_left_to_the_sort() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 16))
    for dtype in (np.dtype(np.float32), np.dtype(np.float16)):
        assert histogram.exact_scales(magnitude_bits(weight.astype(dtype)), dtype) is None
