"""The optional extension module `ternfmt._native`: the one place that knows whether it is there.

Every function here is the twin of numpy code that gives the same bits, and returns None where it leaves the work to
that code. The environment variable ``TERNFMT_NATIVE`` chooses: ``numpy`` (no native code), or an instruction set
(``avx2``, ``scalar``), which must then be available; unset means the fastest there is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from . import _native
except ImportError:  # built without: no compiler, or it failed
    _native = None  # type: ignore[assignment]

VARIABLE = "TERNFMT_NATIVE"
NUMPY = "numpy"

COLUMNS_MAX = 1 << 20
"""Rows (or groups) up to which `exact_scales` keeps its sums exact, as in encode/histogram.py."""

Array = npt.NDArray[Any]


def available() -> tuple[str, ...]:
    """What can run here, fastest first; ``"numpy"`` is always the last."""
    return (*(_native.available() if _native else ()), NUMPY)


def selected() -> str:
    """What runs: an instruction set, or ``"numpy"``."""
    return _selected


def select(name: str) -> None:
    """Run this from now on, in all threads.

    Raises:
        ValueError: it is not available.
    """
    global _selected
    if name not in available():
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(available())}, got {name!r}")
    if name != NUMPY:
        _native.select(name)
    _selected = name


@contextmanager
def using(name: str) -> Iterator[None]:
    """`select`, until the context ends."""
    before = _selected
    select(name)
    try:
        yield
    finally:
        select(before)


def pack(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8] | None:
    """`ternfmt.pack.pack` of int8 ``[N, K]``; None also if a code is not -1, 0 or +1."""
    if _selected == NUMPY:
        return None
    rows, columns = codes.shape
    packed = np.empty((rows, -(-columns // 4)), dtype=np.uint8)
    return packed if _native.pack(_plain(codes), rows, columns, packed) else None


def unpack(packed: npt.NDArray[np.uint8], k: int) -> npt.NDArray[np.int8] | None:
    """`ternfmt.pack.unpack` of uint8 ``[N, ceil(k/4)]``."""
    if _selected == NUMPY:
        return None
    codes = np.empty((len(packed), k), dtype=np.int8)
    _native.unpack(_plain(packed), len(packed), k, codes)
    return codes


def codes_are_valid(packed: npt.NDArray[np.uint8], k: int) -> bool | None:
    """Whether `ternfmt.pack.check_codes` finds no fault in ``[N, ceil(k/4)]``."""
    if _selected == NUMPY:
        return None
    return _native.valid(_plain(packed), len(packed), k)


def exact_scales(weight: Array, group_size: int) -> npt.NDArray[np.float64] | None:
    """Unrounded scales of method ``exact``.

    Args:
        weight: F32, F16 or BF16 ``[R, K]``.
        group_size: columns that share a scale, K without groups.

    Returns:
        Float64 ``[R, groups]``; None also for rows or groups longer than COLUMNS_MAX, and for NaN and Inf.
    """
    rows, k = weight.shape
    size = min(group_size, k)
    if _selected == NUMPY or size > COLUMNS_MAX:
        return None
    scales = np.empty((rows, -(-k // size)))
    finite = _native.exact_scales(_bits(weight), rows, k, size, weight.dtype.name, scales)
    return scales if finite else None


def assign_codes(
    weight: Array, group_size: int, floors: Array, changes: npt.NDArray[np.uint8], planes: int
) -> list[npt.NDArray[np.uint8]] | None:
    """Packed codes of each plane, ``[R, ceil(K/4)]``.

    Args:
        weight: F32, F16 or BF16 ``[R, K]``.
        group_size: columns that share thresholds, K without groups.
        floors: bit patterns ``[R, groups, T]``, ascending: magnitudes above floor j ...
        changes: ... have their codes changed by this, plane p in bits 2p and 2p + 1.
        planes: how many.
    """
    if _selected == NUMPY:
        return None
    rows, k = weight.shape
    packed = tuple(np.empty((rows, -(-k // 4)), dtype=np.uint8) for _ in range(planes))
    _native.assign_codes(
        _bits(weight), rows, k, min(group_size, k), weight.dtype.name, _plain(floors), _plain(changes), packed
    )
    return list(packed)


def count_non_zero(packed: npt.NDArray[np.uint8], k: int) -> int | None:
    """How many codes of valid ones, ``[N, ceil(k/4)]``, are not 0."""
    if _selected == NUMPY:
        return None
    return _native.non_zero(_plain(packed), len(packed), k)


def squares(
    weight: Array, group_size: int, codes: Sequence[npt.NDArray[np.uint8]], scales: Array, chunk_rows: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    """Sums of squared errors and of squares of each chunk of rows, in the order of encode/report/layer_report.py.

    Args:
        weight: F32, F16 or BF16 ``[R, K]``.
        group_size: columns that share a scale, K without groups.
        codes: packed codes of each plane, ``[R, ceil(K/4)]``.
        scales: float32 ``[P, R, groups]``.
        chunk_rows: rows of a chunk, the last may have fewer.

    Returns:
        Two float64 ``[chunks]``; None also for one column, which numpy adds in an order of its own.
    """
    rows, k = weight.shape
    if _selected == NUMPY or k == 1:
        return None
    errors, norms = np.empty((2, -(-rows // chunk_rows)))
    packed = tuple(map(_plain, codes))
    size = min(group_size, k)
    _native.squares(_bits(weight), rows, k, size, weight.dtype.name, chunk_rows, packed, _plain(scales), errors, norms)
    return errors, norms


def _plain(array: Array) -> Array:
    """The array itself if it is C-contiguous and aligned, else a copy that is."""
    return np.require(array, requirements=("C", "A"))


def _bits(weight: Array) -> Array:
    # ml_dtypes' bfloat16 has no buffer protocol.
    return _plain(weight).view(f"u{weight.itemsize}")


_selected = NUMPY
select(os.environ.get(VARIABLE) or available()[0])
