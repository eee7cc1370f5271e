"""The spectrum of a row: its magnitudes in descending order and their prefix sums.

Every rule needs only sums over "the n largest magnitudes", so one sort is the only pass over K.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .weights import Array, Float64, Int64, floor_bits

_ROW_SHIFT = np.uint64(32)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Sorted magnitudes of R rows.

    Attributes:
        keys: complements of the magnitudes' bit patterns, so ascending; uint16 or uint32 ``[R, K]``.
        dtype: the dtype the bit patterns belong to.
        values: magnitudes, descending, float64 ``[R, K]``.
        prefix: see `prefix_sums`, float64 ``[R, K + 1]``.
    """

    keys: Array
    dtype: np.dtype[Any]
    values: Float64
    prefix: Float64

    @classmethod
    def of(cls, bits: Array, dtype: np.dtype[Any]) -> Spectrum:
        """Sort each row of finite magnitudes, `magnitude_bits` ``[R, K]``."""
        # "stable" is a radix sort for 16-bit integers; "quicksort" has SIMD forms for 32-bit ones.
        keys = np.sort(~bits, axis=1, kind="stable" if bits.itemsize == 2 else "quicksort")
        values = (~keys).view(dtype).astype(np.float64)
        return cls(keys, dtype, values, prefix_sums(values))

    @cached_property
    def _row_keys(self) -> npt.NDArray[np.uint64]:
        """All rows as one ascending array: row number above the key."""
        rows = np.arange(len(self.keys), dtype=np.uint64)[:, None]
        return (rows << _ROW_SHIFT | self.keys).reshape(-1)

    def count_above(self, thresholds: Float64, rows: Int64) -> Int64:
        """How many magnitudes of row ``rows[i]`` exceed ``thresholds[i, j]``: ``[len(rows), T]``."""
        keys = ~floor_bits(thresholds, self.dtype)
        row_keys = rows.astype(np.uint64)[:, None] << _ROW_SHIFT | keys
        return np.searchsorted(self._row_keys, row_keys) - rows[:, None] * self.keys.shape[1]

    def sum_largest(self, counts: Int64, rows: Int64) -> Float64:
        """Sums of the ``counts[i, j]`` largest magnitudes of row ``rows[i]``: ``[len(rows), T]``."""
        sums: Float64 = self.prefix[rows[:, None], counts]
        return sums


def prefix_sums(values: Float64) -> Float64:
    """Element n of each row is the sum of its first n values, added one at a time from the left.

    float64 ``[R, K]`` -> ``[R, K + 1]``.
    """
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.add.accumulate(values, axis=1, out=sums[:, 1:])
    return sums
