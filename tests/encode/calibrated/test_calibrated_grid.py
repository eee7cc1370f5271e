"""The grid of levels: nearest levels, their values and their codes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt.encode import reference
from ternfmt.encode.calibrated.grid import Grid, level_of

scale_lists = st.lists(st.one_of(st.just(0.0), st.floats(2.0**-8, 4.0, width=16)), min_size=1, max_size=4).map(
    lambda scales: sorted(scales, reverse=True)
)


def grid_of(scales):
    return Grid.of(np.array(scales, dtype=np.float64)[:, None], torch.zeros(1, dtype=torch.float64))


@given(scale_lists, st.lists(st.floats(-8, 8), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_nearest_is_the_references(scales, numbers):
    grid = grid_of(scales)
    x = torch.tensor(numbers, dtype=torch.float64)[:, None]
    level = grid.nearest(x)
    value = grid.value(level)[:, 0].tolist()
    codes = grid.plane_codes(level)[:, :, 0].T.tolist()
    for number, found, found_codes in zip(numbers, value, codes, strict=True):
        expected = reference.nearest_codes(number, scales)
        assert found == pytest.approx(sum(s * c for s, c in zip(scales, expected, strict=True)), abs=1e-12)
        assert tuple(found_codes) == expected
    torch.testing.assert_close(grid.nearest(x[0]), level[0])
    torch.testing.assert_close(grid.value(level[0]), grid.value(level)[0])


@given(scale_lists, st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_level_of_codes_has_their_value(scales, seed):
    codes = torch.from_numpy(np.random.default_rng(seed).integers(-1, 2, size=(len(scales), 7, 1)).astype(np.int8))
    grid = grid_of(scales)
    value = sum(scale * code for scale, code in zip(scales, codes.to(torch.float64), strict=True))
    torch.testing.assert_close(grid.value(level_of(codes, grid)), value)


def test_rows_have_grids_of_their_own():
    grid = Grid.of(np.array([[1.0, 4.0]]), torch.zeros(1))
    x = torch.tensor([[0.6, 0.6], [-3.0, -3.0]])
    assert grid.nearest(x).tolist() == [[1, 0], [-1, -1]]
    assert grid.value(grid.nearest(x)).tolist() == [[1.0, 0.0], [-1.0, -4.0]]
