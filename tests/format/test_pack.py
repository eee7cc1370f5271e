"""Packing: SPEC section 3."""

from __future__ import annotations

from math import ceil

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ternfmt import FormatError, Kind
from ternfmt.check import check_plane_codes
from ternfmt.pack import check_codes, pack, packed_columns, unpack

pytestmark = pytest.mark.usefixtures("implementation")

codes_arrays = hnp.arrays(
    np.int8, st.tuples(st.integers(0, 4), st.integers(1, 13)), elements=st.integers(-1, 1), fill=st.nothing()
)
bytes_arrays = hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(1, 4)), fill=st.nothing())


def pack_row(codes: list[int]) -> bytes:
    """SPEC S-3.1 and S-3.4, code by code."""
    row = bytearray(ceil(len(codes) / 4))
    for k, code in enumerate(codes):
        row[k // 4] |= {0: 0b00, 1: 0b01, -1: 0b11}[code] << 2 * (k % 4)
    return bytes(row)


@given(codes_arrays)
def test_pack_is_what_the_spec_says(codes: np.ndarray) -> None:
    packed = pack(codes)
    assert (packed.dtype, packed.shape) == (np.uint8, (len(codes), packed_columns(codes.shape[1])))
    assert [row.tobytes() for row in packed] == [pack_row(row.tolist()) for row in codes]


@given(codes_arrays)
def test_unpack_undoes_pack(codes: np.ndarray) -> None:
    unpacked = unpack(pack(codes), codes.shape[1])
    assert unpacked.dtype == np.int8
    np.testing.assert_array_equal(unpacked, codes)


@given(bytes_arrays, st.integers(0, 3))
def test_pack_undoes_unpack_of_valid_bytes(packed: np.ndarray, pad_lanes: int) -> None:
    packed ^= (packed >> 1 & ~packed & 0x55) << 1  # turn 10 into 00
    packed[:, -1] &= 0xFF >> 2 * pad_lanes
    k = 4 * packed.shape[1] - pad_lanes
    check_codes(packed, k, "w")
    np.testing.assert_array_equal(pack(unpack(packed, k)), packed)


@given(codes_arrays.filter(lambda codes: codes.size > 0), st.data())
def test_one_element_is_two_bits(codes: np.ndarray, data: st.DataObject) -> None:
    n, k = (data.draw(st.integers(0, size - 1)) for size in codes.shape)
    changed = codes.copy()
    changed[n, k] = (codes[n, k] + 2) % 3 - 1
    difference = pack(codes) ^ pack(changed)
    assert difference[n, k // 4] != 0
    difference[n, k // 4] &= ~np.uint8(0b11 << 2 * (k % 4))
    assert not difference.any()


@given(bytes_arrays, st.integers(0, 3))
def test_check_codes_finds_exactly_the_forbidden_code_and_padding(packed: np.ndarray, pad_lanes: int) -> None:
    k = 4 * packed.shape[1] - pad_lanes
    lanes = packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3
    lanes = lanes.reshape(len(packed), -1)
    expected = None
    if (lanes[:, :k] == 0b10).any():
        expected = Kind.CODE
    elif lanes[:, k:].any():
        expected = Kind.PADDING
    found = None
    try:
        check_codes(packed, k, "w")
    except FormatError as error:
        found = error.kind
    assert found is expected


@pytest.mark.parametrize("lane", range(4))
def test_the_message_names_row_and_column(lane: int) -> None:
    packed = np.zeros((3, 2), np.uint8)
    packed[1, 1] = 0b10 << 2 * lane
    with pytest.raises(FormatError, match=f"row 1, column {4 + lane};"):
        check_codes(packed, 8, "w")


def test_rows_are_counted_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ternfmt.check.BLOCK_BYTES", 2)
    packed = np.zeros((5, 1), np.uint8)
    packed[1] = 0b0100
    with pytest.raises(FormatError, match="row 1 ends"):
        check_plane_codes(packed, 1, "w")
    packed[4] = 0b10
    with pytest.raises(FormatError, match="row 4, column 0"):
        check_plane_codes(packed, 1, "w")


@given(codes_arrays)
def test_lanes_are_those_of_int2(codes: np.ndarray) -> None:
    """Two's complement, as ONNX INT2 and ml_dtypes.int2."""
    packed = pack(codes)
    for lane in range(4):
        lane_codes = codes[:, lane::4]
        bits = (packed >> 2 * lane & 3)[:, : lane_codes.shape[1]]
        np.testing.assert_array_equal(bits, lane_codes.astype(ml_dtypes.int2).astype(np.uint8) & 3)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("step", [1, 2])
def test_any_memory_layout_is_read(order: str, step: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (6, 18)).astype(np.int8)
    packed = pack(codes)
    wide = np.zeros((6 * step, 5 * step), np.uint8, order=order)
    wide[::step, ::step] = packed
    np.testing.assert_array_equal(unpack(wide[::step, ::step], 18), codes)
    np.testing.assert_array_equal(pack(np.array(codes, order=order)), packed)


@pytest.mark.parametrize("bad", [-128, -2, 2, 127])
def test_pack_refuses_other_values(bad: int) -> None:
    with pytest.raises(ValueError, match="expected -1, 0, \\+1"):
        pack(np.array([[0, bad]], np.int8))


@pytest.mark.parametrize("bad", [np.zeros(4, np.int8), np.zeros((1, 4), np.int16), np.zeros((1, 1, 4), np.int8)])
def test_pack_refuses_other_arrays(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected int8"):
        pack(bad)


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 1), np.uint8), np.zeros((1, 3), np.uint8), np.zeros(2, np.uint8), np.zeros((1, 2), np.int8)]
)
def test_unpack_refuses_other_arrays(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        unpack(bad, 5)
