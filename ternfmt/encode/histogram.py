"""`exact` for 16-bit weights: a histogram of magnitudes takes the place of the sort.

A row of BF16 or F16 has few distinct magnitudes near its largest, and no others matter: the best support is
{|w| > scale / 2} and its scale, the mean of the largest magnitudes, is at least the mean of all. So bins reach from
the largest magnitude down to half the mean.

Within this range sums are exact in binary64: magnitudes are multiples of half the mean's last place, the mean is at
least the largest / K, so a sum takes at most 11 + 2 * log2(K) + 2 bits. Whether equal magnitudes are added one by
one (docs/methods.md) or at once makes no difference then, nor does looking at supports only where a magnitude ends:
between two such places (sum)^2 / n has no maximum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .weights import Array, Float64, floor_bits

COLUMNS_MAX = 1 << 20
"""Columns up to which sums stay within binary64's 53 bits: 11 + 2 * 20 + 2."""

MARGIN = 0.999
"""Keeps half the mean, which is rounded, below the true one."""


def exact_scales(bits: Array, dtype: np.dtype[Any]) -> Float64 | None:
    """The scales of method ``exact``, where a histogram is the better way to them.

    Args:
        bits: `magnitude_bits` of finite weights, ``[R, K]``.
        dtype: the dtype the bit patterns belong to.

    Returns:
        Unrounded scales, float64 ``[R]``; None for 32-bit weights, for more columns than COLUMNS_MAX, and where
        bins would outnumber columns.
    """
    rows, columns = bits.shape
    if dtype.itemsize != 2 or columns > COLUMNS_MAX:
        return None
    largest = bits.max(axis=1)
    smallest = floor_bits(_half_mean(bits, dtype), dtype)
    last = int((largest - smallest).max()) + 1  # the bin of everything smaller, which is ignored
    if last > columns:
        return None
    below = np.minimum(largest[:, None] - bits, np.uint16(last)).astype(np.intp)
    below += np.arange(0, rows * (last + 1), last + 1)[:, None]
    counts = np.bincount(below.reshape(-1), minlength=rows * (last + 1)).reshape(rows, -1)[:, :last]
    distances = np.arange(last)
    values = np.maximum(largest[:, None].astype(np.int32) - distances, 0).astype(np.uint16)
    sizes = np.cumsum(counts, axis=1)
    sums = np.cumsum(counts * values.view(dtype).astype(np.float64), axis=1)
    best = np.argmax(sums * sums / sizes, axis=1)[:, None]
    scales: Float64 = np.take_along_axis(sums, best, 1) / np.take_along_axis(sizes, best, 1)
    return scales[:, 0]


def _half_mean(bits: Array, dtype: np.dtype[Any]) -> Float64:
    """Half the mean magnitude of each row, rounded down generously: float64 ``[R]``."""
    if dtype == np.float16:
        magnitudes = bits.view(np.float16).astype(np.float32)
    else:
        magnitudes = (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    half_mean: Float64 = magnitudes.mean(axis=1, dtype=np.float64) * (0.5 * MARGIN)
    return half_mean
