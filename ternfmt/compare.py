"""Compare two models, and a ternary model with its dense source."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .reader import Model
from .tensor import TernaryTensor

BLOCK_WEIGHTS = 1 << 20
"""Weights looked at together: bounds the memory that dense copies take."""

# Bit 0 of a code says non-zero.
_NON_ZERO_CODES = np.array([(b & 0x55).bit_count() for b in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class Difference:
    """One difference between two models.

    Attributes:
        name: the tensor.
        what: ``only in A``, ``only in B``, ``kind``, ``shape``, ``dtype``, ``features`` or ``values``.
        detail: both sides, or how many values differ and by how much.
    """

    name: str
    what: str
    detail: str


def diff(a: Model, b: Model) -> Iterator[Difference]:
    """Yield the differences in tensors; order, padding and metadata do not count."""
    for name in sorted(a.tensors.keys() | b.tensors.keys()):
        if name not in b.tensors:
            yield Difference(name, "only in A", str(list(a.tensors[name].shape)))
        elif name not in a.tensors:
            yield Difference(name, "only in B", str(list(b.tensors[name].shape)))
        else:
            yield from _diff_tensor(a, b, name)


def sparsity(tensor: TernaryTensor) -> float:
    """Share of codes that are 0, over all planes."""
    non_zero = 0
    for plane in tensor.planes:
        for rows in row_blocks(tensor):
            non_zero += int(_NON_ZERO_CODES[plane.codes[rows]].sum(dtype=np.int64))
    return 1 - non_zero / (tensor.n * tensor.k * len(tensor.planes))


def squared_error(tensor: TernaryTensor, source: npt.NDArray[Any]) -> tuple[float, float]:
    """Sum of squared errors and of squares of the source: ``sum (w - q)^2`` and ``sum w^2``.

    Raises:
        ValueError: the shapes differ.
    """
    if tensor.shape != source.shape:
        raise ValueError(f"expected a source of shape {list(tensor.shape)}, got {list(source.shape)}")
    error = signal = 0.0
    for rows in row_blocks(tensor):
        dense = source[rows].astype(np.float64)
        error += float(np.square(dense - tensor[rows].dequantize(np.float32)).sum())
        signal += float(np.square(dense).sum())
    return error, signal


def decibels(error: float, signal: float) -> float:
    """Signal-to-noise ratio in dB; infinite without error."""
    if error == 0:
        return math.inf
    return 10 * math.log10(signal / error) if signal else -math.inf


def row_blocks(tensor: TernaryTensor) -> Iterator[slice]:
    """Slices of rows of about `BLOCK_WEIGHTS` weights each."""
    step = max(1, BLOCK_WEIGHTS // tensor.k)
    for start in range(0, tensor.n, step):
        yield slice(start, min(start + step, tensor.n))


def _diff_tensor(a: Model, b: Model, name: str) -> Iterator[Difference]:
    left, right = a.tensors[name], b.tensors[name]
    if left.ternary != right.ternary:
        kinds = ["ternary" if info.ternary else "dense" for info in (left, right)]
        yield Difference(name, "kind", f"{kinds[0]} | {kinds[1]}")
        return
    if left.shape != right.shape:
        yield Difference(name, "shape", f"{list(left.shape)} | {list(right.shape)}")
        return
    if left.dtype != right.dtype:
        yield Difference(name, "dtype", f"{left.dtype} | {right.dtype}")
    features = [(info.planes, info.group_size, info.low_rank) for info in (left, right)]
    if features[0] != features[1]:
        yield Difference(name, "features", f"(planes, group_size, low_rank) {features[0]} | {features[1]}")
        return
    for what, x, y in _pairs(a[name], b[name]):
        if x.dtype == y.dtype and x.tobytes() == y.tobytes():
            continue
        yield Difference(name, "values", _describe(what, x, y))


def _pairs(a: Any, b: Any) -> Iterator[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]]:
    if not isinstance(a, TernaryTensor):
        yield "value", a, b
        return
    for p in range(len(a.planes)):
        yield f"plane {p + 1} code", a.unpack(p), b.unpack(p)
        yield f"plane {p + 1} scale", a.planes[p].scale, b.planes[p].scale
    if a.low_rank is not None:
        yield "low-rank factor down", a.low_rank.down, b.low_rank.down
        yield "low-rank factor up", a.low_rank.up, b.low_rank.up


def _describe(what: str, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> str:
    with np.errstate(invalid="ignore"):
        differ = x != y
        if x.dtype.kind == "b":
            return f"{int(differ.sum())} of {x.size} {what}s differ"
        largest = np.abs(x.astype(np.float64) - y.astype(np.float64)).max()
    return f"{int(differ.sum())} of {x.size} {what}s differ, by at most {largest:g}"
