"""Rounding scales to the dtype they are stored in (docs/methods.md)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ..tensor import SCALE_DTYPES
from .weights import Array, Float64

F16_MIN = 2.0**-14
F16_MAX = 65504.0
"""F16 holds scales in this range to 11 bits. Below, it loses precision; above, it ends."""

NORMAL_MIN = 2.0**-126
"""The smallest normal F32 and BF16. Smaller scales become 0, as kernels that flush subnormals
would read them."""

_F32, _F16, _BF16 = (np.dtype(d) for d in (np.float32, np.float16, ml_dtypes.bfloat16))
_LARGEST = {
    _F32: (2.0 - 2.0**-23) * 2.0**127,
    _F16: F16_MAX,
    _BF16: (2.0 - 2.0**-7) * 2.0**127,
}


def check_scale_dtype(dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    """The dtype asked for, F16 for None.

    Raises:
        ValueError: not F32, F16 or BF16.
    """
    asked = _F16 if dtype is None else np.dtype(dtype)
    if asked not in SCALE_DTYPES:
        raise ValueError(f"scale_dtype: expected float32, float16 or bfloat16, got {asked}")
    return asked


def store_scales(scales: Float64, dtype: np.dtype[Any]) -> Array:
    """Round the scales of a tensor, float64 >= 0 of any shape, to nearest even in ``dtype``.

    In place of F16 the result is F32 if a non-zero scale lies outside F16_MIN..F16_MAX.
    """
    scales = np.where(scales < NORMAL_MIN, 0.0, scales)
    if dtype == _F16 and ((scales > F16_MAX) | ((scales > 0) & (scales < F16_MIN))).any():
        dtype = _F32
    if dtype == _BF16:
        scales = _round_to_bfloat16(scales)
    return np.minimum(scales, _LARGEST[dtype]).astype(dtype)


def _round_to_bfloat16(scales: Float64) -> Float64:
    """Round 0 and normal values to 8 significant bits at once; a cast might round to F32 before."""
    dropped = np.uint64(53 - 8)
    bits = scales.view(np.uint64)
    half = (np.uint64(1) << dropped - np.uint64(1)) - np.uint64(1)
    even = bits >> dropped & np.uint64(1)
    return ((bits + half + even) >> dropped << dropped).view(np.float64)
