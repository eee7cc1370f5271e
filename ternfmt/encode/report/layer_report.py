"""What quantising did to one layer: error, sparsity, scales, bytes.

Order of the sums, so that any number of jobs gives the same bits: rows are taken in chunks (`CHUNK_WEIGHTS`,
`CHUNK_ROWS`) of the blocks that `Measure.add` is given. In a chunk each square is rounded to binary32 and added down
its column, row by row; the column sums are added from left to right in binary64. The sum over chunks is rounded once,
whatever their order (`math.fsum`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ... import native
from ...compare import decibels
from ...container import DTYPE_NAMES, DTYPES
from ...pack import packed_columns
from ...tensor import TernaryTensor
from ..weights import Array

if TYPE_CHECKING:
    from ..settings import LayerSettings

SCALE_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
"""Which quantiles of a plane's scales a report holds: the least, five between, the largest."""

CHUNK_WEIGHTS = 1 << 17
"""Weights whose errors are summed at once (at least one row): their temporaries stay in cache."""

CHUNK_ROWS = 256
"""Rows of such a chunk at most: so few additions in binary32 lose nothing that a ratio in dB would show."""

FLOAT32_SCALES = (2.0**-40, 2.0**32)
"""Where a block's largest scale lies here, squares are taken in binary32: a row's scale is at least the mean of its
magnitudes, so none reaches 2^24 (K_MAX) times the largest scale and squares stay below 2^112; and what underflows is
nothing beside the rest. Elsewhere they are taken in binary64."""

# Row b holds the four codes of byte b, as one 16-byte number, so that one gather moves four codes.
_BYTE_TO_CODES = np.array(
    [[(0.0, 1.0, math.nan, -1.0)[b >> shift & 3] for shift in (0, 2, 4, 6)] for b in range(256)], dtype=np.float32
).view(np.complex128)[:, 0]
_BYTE_TO_NON_ZERO = np.array([(b & 0x55).bit_count() for b in range(256)], dtype=np.uint8)


@dataclass(frozen=True)
class LayerReport:
    """What a layer became.

    Attributes:
        name: the tensor.
        shape: its logical shape.
        method: one of `METHODS` or `DATA_METHODS`.
        group_size: columns that share a scale, or None.
        scale_dtype: ``F32``, ``F16`` or ``BF16``, as stored.
        stored_bytes: of all codes, scales and low-rank factors.
        squared_error: sum of the squared differences between weights and stored values.
        squared_norm: sum of the squared weights.
        non_zero: for each plane, how many codes are not 0.
        scales: for each plane, the SCALE_QUANTILES of its scales.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    group_size: int | None
    scale_dtype: str
    stored_bytes: int
    squared_error: float
    squared_norm: float
    non_zero: tuple[int, ...]
    scales: tuple[tuple[float, ...], ...]

    @property
    def planes(self) -> int:
        """Number of planes."""
        return len(self.non_zero)

    @property
    def weights(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def snr_db(self) -> float:
        """Signal-to-noise ratio of the stored values."""
        return decibels(self.squared_error, self.squared_norm)

    @property
    def sparsity(self) -> tuple[float, ...]:
        """For each plane, the share of codes that are 0."""
        return tuple(1 - count / self.weights for count in self.non_zero)

    def to_json(self) -> dict[str, Any]:
        """The attributes as JSON values; floats survive exactly."""
        return {
            **vars(self),
            "shape": list(self.shape),
            "non_zero": list(self.non_zero),
            "scales": [list(plane) for plane in self.scales],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerReport:
        """From what `to_json` gave."""
        lists = {
            "shape": tuple(value["shape"]),
            "non_zero": tuple(value["non_zero"]),
            "scales": tuple(tuple(plane) for plane in value["scales"]),
        }
        return cls(**{**value, **lists})


@dataclass(frozen=True)
class Totals:
    """Sums over layers.

    Attributes:
        weights: number of weights.
        stored_bytes: of all codes and scales.
        snr_db: from the summed squared errors and norms.
        sparsity: share of zeros among the codes of all planes; 0 without layers.
    """

    weights: int
    stored_bytes: int
    snr_db: float
    sparsity: float

    @classmethod
    def of(cls, layers: Iterable[LayerReport]) -> Totals:
        """Sum up; the same for any order of layers."""
        layers = list(layers)
        codes = sum(layer.weights * layer.planes for layer in layers)
        non_zero = sum(sum(layer.non_zero) for layer in layers)
        return cls(
            weights=sum(layer.weights for layer in layers),
            stored_bytes=sum(layer.stored_bytes for layer in layers),
            snr_db=decibels(
                math.fsum(layer.squared_error for layer in layers), math.fsum(layer.squared_norm for layer in layers)
            ),
            sparsity=1 - non_zero / codes if codes else 0.0,
        )


class Measure:
    """Makes the report of one layer from its blocks of rows.

    Args:
        name: the tensor.
        shape: its logical shape.
        layer: how it is quantised.
    """

    def __init__(self, name: str, shape: tuple[int, ...], layer: LayerSettings) -> None:
        self._name = name
        self._shape = shape
        self._method = layer.method
        self._group_size = layer.group_size
        self._errors: list[float] = []
        self._norms: list[float] = []
        self._non_zero = np.zeros(layer.planes, dtype=np.int64)
        self._scales: list[list[Array]] = [[] for _ in range(layer.planes)]
        self._bytes = 0
        factors = layer.low_rank * (shape[0] + math.prod(shape[1:]))
        self._low_rank_bytes = factors * DTYPES["F16"].itemsize

    def add(self, weight: Array, tensor: TernaryTensor) -> None:
        """Measure the next rows.

        Args:
            weight: float32, float16 or bfloat16 ``[R, ...]``.
            tensor: what they became.
        """
        dense = weight.reshape(tensor.n, tensor.k)
        scratch = _Scratch(tensor)
        sums = scratch.all_squares_natively(dense, tensor)
        if sums is not None:
            self._errors += sums[0].tolist()
            self._norms += sums[1].tolist()
        else:
            for start in range(0, tensor.n, scratch.rows):
                rows = slice(start, start + scratch.rows)
                error, norm = scratch.squares(dense[rows], tensor[rows])
                self._errors.append(error)
                self._norms.append(norm)
        for p, plane in enumerate(tensor.planes):
            non_zero = native.count_non_zero(plane.codes, tensor.k)
            self._non_zero[p] += _count_non_zero(plane.codes) if non_zero is None else non_zero
            self._scales[p].append(plane.scale.reshape(-1))
        self._bytes += sum(plane.codes.nbytes + plane.scale.nbytes for plane in tensor.planes)

    def report(self) -> LayerReport:
        """The report, after the last rows."""
        scales = [np.sort(np.concatenate(plane).astype(np.float64)) for plane in self._scales]
        return LayerReport(
            name=self._name,
            shape=self._shape,
            method=self._method,
            group_size=self._group_size,
            scale_dtype=DTYPE_NAMES[self._scales[0][0].dtype],
            stored_bytes=self._bytes + self._low_rank_bytes,
            squared_error=math.fsum(self._errors),
            squared_norm=math.fsum(self._norms),
            non_zero=tuple(self._non_zero.tolist()),
            scales=tuple(tuple(float(s[round(q * (len(s) - 1))]) for q in SCALE_QUANTILES) for s in scales),
        )


class _Scratch:
    """Arrays for one chunk, used again for the next: fresh memory would cost more than the arithmetic.

    Attributes:
        rows: rows of a chunk.
    """

    def __init__(self, tensor: TernaryTensor) -> None:
        low, high = FLOAT32_SCALES
        largest = max(float(plane.scale.max()) for plane in tensor.planes)
        dtype = np.float32 if low <= largest <= high else np.float64
        self.rows = min(tensor.n, CHUNK_ROWS, max(1, CHUNK_WEIGHTS // tensor.k))
        self._difference = np.empty((self.rows, tensor.k), dtype=dtype)
        self._other = np.empty((self.rows, tensor.k), dtype=dtype)
        self._codes = np.empty((self.rows, packed_columns(tensor.k)), dtype=np.complex128)

    def squares(self, weight: Array, tensor: TernaryTensor) -> tuple[float, float]:
        """``sum (w - q)^2`` and ``sum w^2`` of a chunk ``[R, K]``, in the order the module states."""
        difference, other = self._difference[: tensor.n], self._other[: tensor.n]
        np.copyto(difference, weight, casting="unsafe")
        norm = _column_sums(np.multiply(difference, difference, out=other))
        for plane in tensor.planes:
            # Index arrays of uint8 are never out of range; "clip" only spares a copy of the result.
            codes = _BYTE_TO_CODES.take(plane.codes, out=self._codes[: tensor.n], mode="clip")
            scale = plane.scale.astype(difference.dtype).reshape(tensor.n, -1)
            if tensor.group_size is not None:
                scale = np.repeat(scale, min(tensor.group_size, tensor.k), axis=1)[:, : tensor.k]
            difference -= np.multiply(codes.view(np.float32)[:, : tensor.k], scale, out=other)
        if tensor.low_rank is not None:
            up, down = (f.astype(difference.dtype) for f in (tensor.low_rank.up, tensor.low_rank.down))
            difference -= up @ down
        return _column_sums(np.multiply(difference, difference, out=other)), norm

    def all_squares_natively(self, weight: Array, tensor: TernaryTensor) -> tuple[Array, Array] | None:
        """The same for every chunk of a block, where it is binary32 and there is native code."""
        if self._difference.dtype != np.float32 or tensor.low_rank is not None:
            return None
        scales = np.stack([plane.scale.reshape(tensor.n, -1).astype(np.float32) for plane in tensor.planes])
        codes = [plane.codes for plane in tensor.planes]
        return native.squares(weight, tensor.group_size or tensor.k, codes, scales, self.rows)


def _column_sums(squares: Array) -> float:
    by_column = np.add.reduce(squares, axis=0)
    return float(np.add.accumulate(by_column, dtype=np.float64)[-1])


def _count_non_zero(codes: npt.NDArray[np.uint8]) -> int:
    """Codes that are not 0: the set low bits of pairs, counted a byte at a time down the columns."""
    return int(_BYTE_TO_NON_ZERO.take(codes).sum(axis=0, dtype=np.uint32).sum(dtype=np.int64))
