"""The levels that P ternary planes can represent together, and the nearest one to a magnitude."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .weights import Float64


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels >= 0 of R rows, and the magnitudes they stand for.

    Level j stands for magnitudes in ``(thresholds[j - 1], thresholds[j]]``: the nearest
    level, the smaller one on a tie. A level equal to the one before it stands for nothing.

    Attributes:
        values: ascending, ``values[:, 0] == 0``, float64 ``[R, L]``.
        codes: the code of each plane, int8 ``[R, L, P]``.
        thresholds: float64 ``[R, L - 1]``.
    """

    values: Float64
    codes: npt.NDArray[np.int8]
    thresholds: Float64


@lru_cache
def combinations(planes: int) -> npt.NDArray[np.int8]:
    """Code combinations up to sign, int8 ``[(3**P + 1) / 2, P]``, the preferred first.

    Fewest non-zero codes first, then lexicographic with +1 before 0 before -1. Of a combination and
    its negative, the one whose first non-zero code is +1.
    """
    positive = [c for c in itertools.product((1, 0, -1), repeat=planes) if c >= tuple(-x for x in c)]
    table = np.array(sorted(positive, key=np.count_nonzero), dtype=np.int8)
    table.flags.writeable = False
    return table


def levels(scales: Float64) -> Levels:
    """The levels of scales ``[R, P]``: |s_1 c_1 + ... + s_P c_P|, added from plane 1 on."""
    table = combinations(scales.shape[1])
    sums = np.zeros((len(scales), len(table)))
    for p in range(scales.shape[1]):
        sums += scales[:, p, None] * table[:, p]
    values = np.abs(sums)
    order = np.argsort(values, axis=1, kind="stable")
    values = np.take_along_axis(values, order, axis=1)
    negated = np.take_along_axis(sums, order, axis=1) < 0
    codes = np.where(negated[..., None], -table[order], table[order])
    thresholds = (values[:, :-1] + values[:, 1:]) * 0.5
    above = np.full(len(scales), np.inf)
    for j in reversed(range(thresholds.shape[1])):
        # Of equal levels the first, the preferred combination, stands for the whole interval.
        repeated = values[:, j + 1] == values[:, j]
        thresholds[:, j] = np.where(repeated, above, thresholds[:, j])
        above = thresholds[:, j]
    return Levels(values, codes, thresholds)
