"""A ternary tensor in memory: packed codes and scales, never the dense weights (SPEC sections 3 to 5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from .limits import GROUP_MULTIPLE, K_MAX, PLANES_MAX, RANK_MAX
from .pack import packed_columns, unpack

Array = npt.NDArray[Any]

SCALE_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
"""The dtypes a scale and a low-rank factor may have: F32, F16, BF16."""


@dataclass(frozen=True, eq=False)
class Plane:
    """One ternary matrix and its scales.

    Attributes:
        codes: packed codes, uint8 ``[N, ceil(K/4)]``.
        scale: F32, F16 or BF16 ``[N]``, or ``[N, ceil(K/group_size)]`` with groups.
    """

    codes: npt.NDArray[np.uint8]
    scale: Array


@dataclass(frozen=True, eq=False)
class LowRank:
    """The low-rank term ``up @ down`` that is added to the planes.

    Attributes:
        down: ``[R, K]``, F32, F16 or BF16.
        up: ``[N, R]``, same dtype.
    """

    down: Array
    up: Array


@dataclass(frozen=True, eq=False)
class TernaryTensor:
    """``W = sum of planes (scale * code) + up @ down``, held packed.

    Attributes:
        shape: logical shape, rank >= 2; the first dimension is N, the product of the others K.
        planes: one to four planes that add up.
        group_size: columns that share a scale, a multiple of 16; None for one scale a row.
        low_rank: optional low-rank term.

    Raises:
        ValueError: the parts do not fit the shape.
    """

    shape: tuple[int, ...]
    planes: tuple[Plane, ...]
    group_size: int | None = None
    low_rank: LowRank | None = None

    def __post_init__(self) -> None:
        if not 2 <= len(self.shape) <= RANK_MAX or min(self.shape) < 1 or self.k > K_MAX:
            raise ValueError(
                f"shape: expected rank 2 to {RANK_MAX}, dimensions >= 1 and K <= {K_MAX}, got {list(self.shape)}"
            )
        if not 1 <= len(self.planes) <= PLANES_MAX:
            raise ValueError(f"planes: expected 1 to {PLANES_MAX}, got {len(self.planes)}")
        if self.group_size is not None and (not 1 <= self.group_size <= K_MAX or self.group_size % GROUP_MULTIPLE):
            raise ValueError(
                f"group_size: expected a multiple of {GROUP_MULTIPLE}, at most {K_MAX}, got {self.group_size}"
            )
        codes_shape = (self.n, packed_columns(self.k))
        for plane in self.planes:
            _expect("codes", plane.codes, codes_shape, (np.dtype(np.uint8),))
            _expect("scale", plane.scale, self.scale_shape, (self.planes[0].scale.dtype,))
        if self.scale.dtype not in SCALE_DTYPES:
            raise ValueError(f"scale: expected float32, float16 or bfloat16, got {self.scale.dtype}")
        if self.low_rank is not None:
            rank = len(self.low_rank.down)
            if not 1 <= rank <= self.k:
                raise ValueError(f"low_rank: expected rank 1 to K = {self.k}, got {rank}")
            _expect("low_rank.down", self.low_rank.down, (rank, self.k), SCALE_DTYPES)
            _expect("low_rank.up", self.low_rank.up, (self.n, rank), (self.low_rank.down.dtype,))

    @property
    def n(self) -> int:
        """Rows: output channels."""
        return self.shape[0]

    @property
    def k(self) -> int:
        """Columns: the product of all dimensions but the first."""
        return math.prod(self.shape[1:])

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """``(N,)``, or ``(N, ceil(K/group_size))`` with groups."""
        if self.group_size is None:
            return (self.n,)
        return (self.n, -(-self.k // self.group_size))

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """Packed codes of the first plane."""
        return self.planes[0].codes

    @property
    def scale(self) -> Array:
        """Scales of the first plane."""
        return self.planes[0].scale

    @property
    def nbytes(self) -> int:
        """Bytes of all codes, scales and low-rank factors."""
        arrays = [a for plane in self.planes for a in (plane.codes, plane.scale)]
        if self.low_rank is not None:
            arrays += [self.low_rank.down, self.low_rank.up]
        return sum(a.nbytes for a in arrays)

    def unpack(self, plane: int = 0) -> npt.NDArray[np.int8]:
        """Codes of one plane as int8 in the logical shape."""
        return unpack(self.planes[plane].codes, self.k).reshape(self.shape)

    def dequantize(self, dtype: npt.DTypeLike = np.float32) -> Array:
        """Dense weights in the logical shape (SPEC section 5): summed in float32, rounded once to ``dtype``."""
        with np.errstate(over="ignore", invalid="ignore"):  # past the largest number is infinity, in IEEE 754
            total = np.zeros((self.n, self.k), dtype=np.float32)
            for i, plane in enumerate(self.planes):
                scale = plane.scale.astype(np.float32)
                if self.group_size is None:
                    columns = scale[:, None]
                else:
                    columns = np.repeat(scale, min(self.group_size, self.k), axis=1)[:, : self.k]
                term = self.unpack(i).reshape(self.n, self.k) * columns
                total = term if i == 0 else total + term
            if self.low_rank is not None:
                total = total + _low_rank_product(self.low_rank)
            return total.astype(dtype, copy=False).reshape(self.shape)

    def __getitem__(self, rows: slice) -> TernaryTensor:
        """Rows ``start:stop`` as views of the packed bytes."""
        if not isinstance(rows, slice) or rows.step not in (None, 1):
            raise TypeError(f"expected a slice of rows with step 1, got {rows!r}")
        low_rank = self.low_rank
        return replace(
            self,
            shape=(len(range(*rows.indices(self.n))), *self.shape[1:]),
            planes=tuple(Plane(p.codes[rows], p.scale[rows]) for p in self.planes),
            low_rank=None if low_rank is None else LowRank(low_rank.down, low_rank.up[rows]),
        )


def concatenate_rows(tensors: Sequence[TernaryTensor]) -> TernaryTensor:
    """Stack tensors of one K, group size, plane count and scale dtype along the rows, without unpacking.

    Raises:
        ValueError: the tensors differ in anything but N, or one has a low-rank term (their factors
            do not share ``down``, so the sum is not a concatenation).
    """
    if not tensors:
        raise ValueError("expected at least one tensor, got none")
    first = tensors[0]
    for t in tensors:
        if t.low_rank is not None:
            raise ValueError("cannot concatenate rows of tensors with a low-rank term")
        ours = (t.shape[1:], t.group_size, len(t.planes), t.scale.dtype)
        expected = (first.shape[1:], first.group_size, len(first.planes), first.scale.dtype)
        if ours != expected:
            raise ValueError(f"expected (shape[1:], group_size, planes, scale dtype) {expected}, got {ours}")
    planes = tuple(
        Plane(
            np.concatenate([t.planes[i].codes for t in tensors]),
            np.concatenate([t.planes[i].scale for t in tensors]),
        )
        for i in range(len(first.planes))
    )
    return replace(first, shape=(sum(t.n for t in tensors), *first.shape[1:]), planes=planes)


def _low_rank_product(low_rank: LowRank) -> npt.NDArray[np.float32]:
    """``up @ down`` in float32, terms added in order of r, so that every machine gets the same bits."""
    down = low_rank.down.astype(np.float32)
    up = low_rank.up.astype(np.float32)
    total = up[:, :1] * down[:1]
    for r in range(1, len(down)):
        total += up[:, r : r + 1] * down[r : r + 1]
    return total


def _expect(what: str, array: Array, shape: tuple[int, ...], dtypes: Sequence[np.dtype[Any]]) -> None:
    if array.shape != shape or array.dtype not in dtypes:
        expected = " or ".join(str(d) for d in dtypes)
        raise ValueError(f"{what}: expected {expected} {list(shape)}, got {array.dtype} {list(array.shape)}")
