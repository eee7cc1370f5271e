"""Dense weights as they come: what is accepted, and their magnitudes as integers.

Without the sign bit, the bit patterns of IEEE numbers order as their values do, so magnitudes are
sorted and compared as integers, in the same code for every dtype.
"""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..limits import K_MAX

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

WEIGHT_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
"""The dtypes a weight may have: F32, F16, BF16."""


class WeightError(ValueError):
    """A weight that has no ternary form: NaN or Inf.

    Attributes:
        name: the tensor's name.
        row: row of the first such weight in the ``[N, K]`` view.
        column: its column.
        value: the weight.
    """

    def __init__(self, name: str, row: int, column: int, value: float) -> None:
        super().__init__(
            f"{name!r}: expected finite weights, got {value} at row {row}, column {column}; "
            "repair the checkpoint or keep this tensor dense"
        )
        self.name = name
        self.row = row
        self.column = column
        self.value = value

    def __reduce__(self) -> tuple[type[WeightError], tuple[str, int, int, float]]:
        return WeightError, (self.name, self.row, self.column, self.value)


def check_weight(weight: Array, name: str) -> tuple[int, int]:
    """N and K of a weight that can be quantised.

    Raises:
        ValueError: dtype or shape is not.
    """
    if weight.dtype not in WEIGHT_DTYPES:
        raise ValueError(f"{name!r}: expected float32, float16 or bfloat16 weights, got {weight.dtype}")
    n, k = weight.shape[0] if weight.ndim else 0, math.prod(weight.shape[1:])
    if weight.ndim < 2 or n < 1 or not 1 <= k <= K_MAX:
        raise ValueError(f"{name!r}: expected rank >= 2, dimensions >= 1 and K <= {K_MAX}, got {list(weight.shape)}")
    return n, k


def check_finite(block: Array, name: str, first_row: int) -> None:
    """Refuse NaN and Inf in rows ``[R, K]`` that start at ``first_row`` of the tensor.

    Raises:
        WeightError: names the first one in row-major order.
    """
    infinity = magnitude_bits(np.array(np.inf, dtype=np.float32).astype(block.dtype))
    bits = magnitude_bits(block)
    if bits.max() >= infinity:
        row, column = (int(i) for i in np.argwhere(bits >= infinity)[0])
        raise WeightError(name, first_row + row, column, float(block[row, column]))


def magnitude_bits(weight: Array) -> Array:
    """Bit patterns of ``|weight|``: uint16 or uint32 of the same shape."""
    unsigned = np.dtype(f"u{weight.itemsize}")
    bits: Array = weight.view(unsigned) & unsigned.type((1 << 8 * weight.itemsize - 1) - 1)
    return bits


def is_negative(weight: Array) -> npt.NDArray[np.uint8]:
    """The sign bits: 0 or 1, uint8 of the same shape."""
    shift = np.uint8(8 * weight.itemsize - 1)
    return (weight.view(f"u{weight.itemsize}") >> shift).astype(np.uint8)


def floor_bits(thresholds: Float64, dtype: np.dtype[Any]) -> Array:
    """Bit pattern of the largest ``dtype`` value <= each threshold: |w| > t compares integers.

    Thresholds are >= 0; +Inf, which nothing exceeds, stays +Inf.
    """
    with np.errstate(over="ignore", under="ignore"):
        near = thresholds.astype(dtype)
    # The cast gives a neighbour of the threshold; step down where that is the upper one.
    return magnitude_bits(near) - (near.astype(np.float64) > thresholds)
