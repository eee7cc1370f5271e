"""Small symmetric linear systems, many at once, in a stated order of operations."""

from __future__ import annotations

import numpy as np

from .weights import Float64

PIVOT_MIN = 2.0**-30
"""A pivot below this part of its diagonal entry is rounding error: planes linearly dependent."""


def solve(gram: Float64, moment: Float64) -> Float64:
    """Solve ``gram @ x = moment`` by elimination without row exchanges.

    Args:
        gram: positive semi-definite, float64 ``[R, P, P]``.
        moment: float64 ``[R, P]``.

    Returns:
        float64 ``[R, P]``; an unknown with a vanishing pivot is 0.
    """
    n = moment.shape[1]
    a, b = gram.copy(), moment.copy()
    regular = np.empty(moment.shape, dtype=bool)
    for p in range(n):
        regular[:, p] = a[:, p, p] > PIVOT_MIN * gram[:, p, p]
        for q in range(p + 1, n):
            factor = _ratio(a[:, q, p], a[:, p, p], regular[:, p])
            a[:, q] -= factor[:, None] * a[:, p]
            b[:, q] -= factor * b[:, p]
    x = np.zeros(moment.shape)
    for p in reversed(range(n)):
        rest = b[:, p].copy()
        for q in range(p + 1, n):
            rest -= a[:, p, q] * x[:, q]
        x[:, p] = _ratio(rest, a[:, p, p], regular[:, p])
    return x


def _ratio(numerator: Float64, denominator: Float64, regular: np.ndarray) -> Float64:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=regular)
