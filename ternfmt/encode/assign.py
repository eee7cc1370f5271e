"""Nearest codes for stored scales, written as packed bytes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .. import native
from ..pack import CODES_PER_BYTE, packed_columns
from .groups import Groups
from .levels import levels
from .weights import Array, Float64, floor_bits, is_negative, magnitude_bits

# The codes that planes give one weight share a byte, plane p (from 0) in bits 2p and 2p + 1.
_LOW_BITS = np.uint8(0b01010101)


def assign_codes(weight: Array, scales: Float64, groups: Groups) -> list[npt.NDArray[np.uint8]]:
    """The nearest representable value of each weight, on a tie the one nearer zero.

    Args:
        weight: F32, F16 or BF16 ``[R, K]``.
        scales: stored scales, descending over the planes, float64 ``[P, R, groups.count]``.
        groups: which columns share a scale.

    Returns:
        Packed codes of each plane, ``[R, ceil(K/4)]``.
    """
    rows, k = weight.shape
    floors, changes = _thresholds(scales, weight.dtype)
    native_codes = native.assign_codes(weight, groups.size, floors, changes, len(scales))
    if native_codes is not None:
        return native_codes
    bits = magnitude_bits(weight)
    codes = np.zeros((rows, packed_columns(k) * CODES_PER_BYTE), dtype=np.uint8)
    for run in groups.runs:
        part = bits[:, run.columns].reshape(rows * run.count, run.size)
        part_codes = np.zeros(part.shape, dtype=np.uint8)
        for j in range(changes.shape[2]):
            above = part > floors[:, run.groups, j].reshape(-1, 1)
            part_codes ^= above.view(np.uint8) * changes[:, run.groups, j].reshape(-1, 1)
        codes[:, run.columns] = part_codes.reshape(rows, -1)
    # Negating a code flips its high bit where its low bit is set.
    codes[:, :k] ^= (codes[:, :k] & _LOW_BITS) << is_negative(weight) & ~_LOW_BITS
    return [_pack_lanes(codes >> np.uint8(2 * p) & np.uint8(0b11)) for p in range(len(scales))]


def _thresholds(scales: Float64, dtype: np.dtype[np.generic]) -> tuple[Array, npt.NDArray[np.uint8]]:
    """What decides the codes of magnitudes for scales ``[P, R, G]``.

    Returns:
        Bit patterns ``[R, G, T]``, ascending, and for each how the codes of a magnitude above it change: each
        threshold leads from the codes of one level to those of the next.
    """
    planes, rows, count = scales.shape
    grid = levels(scales.reshape(planes, -1).T)
    level_codes = np.zeros(grid.values.shape, dtype=np.uint8)
    for p in range(planes):
        level_codes |= (grid.codes[:, :, p].view(np.uint8) & np.uint8(0b11)) << np.uint8(2 * p)
    changes = level_codes[:, 1:] ^ level_codes[:, :-1]
    floors = floor_bits(grid.thresholds, dtype)
    return floors.reshape(rows, count, -1), changes.reshape(rows, count, -1)


def _pack_lanes(lanes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """`pack` without its range check: 2-bit codes ``[R, 4 * C]`` -> ``[R, C]``."""
    words = lanes.view("<u4")
    words |= words >> np.uint32(6)
    words |= words >> np.uint32(12)
    return words.astype(np.uint8)
