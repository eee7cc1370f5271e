"""One layer by the letter, in numpy float64: never tuned, `solve_layer` in float64 must give the same.

Rows of weights are rows here; columns stay where they are, and an order says which comes first.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from ..quantize import quantize
from ..reference import levels, stored_scales
from ..weights import Float64, Int64
from .layer import WORTHWHILE
from .settings import CalibratedSettings

Codes = npt.NDArray[np.int8]
"""int8 ``[N, K, P]``."""


def quadratic(weight: Float64, x: Float64, student_x: Float64, damping: float) -> tuple[Float64, Float64]:
    """W' and H' for inputs ``[T, K]`` of teacher and student."""
    tokens, columns = student_x.shape
    h = student_x.T @ student_x / tokens
    g = x.T @ student_x / tokens
    d = damping * (np.trace(h) / columns or 1.0) * np.eye(columns)
    return weight @ (g + d) @ np.linalg.inv(h + d), h + d


def error(values: Float64, target: Float64, h: Float64) -> Float64:
    """The objective of each row."""
    difference = values - target
    return np.einsum("ni,ij,nj->n", difference, h, difference)


def value(codes: Codes, scales: Float64) -> Float64:
    """Weights of codes ``[N, K, P]`` under scales ``[N, P]``."""
    return np.einsum("nkp,np->nk", codes, scales)


def nearest(x: float, scales: Float64) -> tuple[int, ...]:
    """Codes of the level nearest to x, of two the one nearer zero."""
    grid = levels(list(scales))
    _, codes = min(grid, key=lambda level: (abs(abs(x) - level[0]), level[0]))
    return tuple(-c for c in codes) if x < 0 else codes


def feedback(target: Float64, h: Float64, scales: Float64, order: Int64) -> Codes:
    """GPTQ as its authors state it: round a column, spread its error over the columns that are left."""
    w = target[:, order].copy()
    upper = np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T
    codes = np.zeros((*target.shape, scales.shape[1]), dtype=np.int8)
    for j, column in enumerate(order):
        for n in range(len(w)):
            codes[n, column] = nearest(w[n, j], scales[n])
        rounding = (w[:, j] - value(codes[:, [column]], scales)[:, 0]) / upper[j, j]
        w[:, j:] -= np.outer(rounding, upper[j, j:])
    return codes


def descend(target: Float64, h: Float64, scales: Float64, codes: Codes, order: Int64, sweeps: int) -> Codes:
    """Every weight in turn to its best level."""
    codes = codes.copy()
    for _ in range(sweeps):
        for n in range(len(target)):
            for i in order:
                v = value(codes[n : n + 1], scales[n : n + 1])[0]
                codes[n, i] = nearest(v[i] + (target[n] - v) @ h[:, i] / h[i, i], scales[n])
    return codes


def refit(target: Float64, h: Float64, codes: Codes) -> Float64:
    """Unrounded scales of least objective for each row's codes: ``[N, P]``, of any sign."""
    scales = np.zeros((len(target), codes.shape[2]))
    for n, t in enumerate(codes.astype(np.float64)):
        scales[n] = np.linalg.lstsq(t.T @ h @ t, t.T @ h @ target[n], rcond=None)[0]
    return scales


def one_plane_scales(target: Float64, h: Float64) -> Float64:
    """Scales that fit best where H' is its diagonal: the best support holds the largest weights."""
    scales = []
    for row in np.abs(target):
        order = np.argsort(-row, kind="stable")
        gains = {}
        for n in range(1, len(row) + 1):
            top = order[:n]
            mass, moment = h[top, top].sum(), (h[top, top] * row[top]).sum()
            gains[n] = (moment * moment / mass, moment / mass)
        scales.append([max(gains.values(), key=lambda gain: gain[0])[1]])
    return np.array(scales)


def solve_one_plane(target: Float64, h: Float64, weight: Float64, settings: CalibratedSettings) -> Float64:
    """Dequantised weights as `solve_layer` finds them with one plane and F16 scales that F16 holds."""
    order = np.argsort(-np.diag(h), kind="stable") if settings.act_order else np.arange(len(h))
    plain = quantize(weight.astype(np.float32), "exact")
    codes, scales = plain.unpack()[:, :, None], plain.scale.astype(np.float64)[:, None]
    best_codes, best_scales = codes, scales

    def keep_better(codes: Codes, scales: Float64) -> None:
        nonlocal best_codes, best_scales
        better = error(value(codes, scales), target, h) < error(value(best_codes, best_scales), target, h)
        best_codes = np.where(better[:, None, None], codes, best_codes)
        best_scales = np.where(better[:, None], scales, best_scales)

    start = _stored(one_plane_scales(target, h))
    keep_better(feedback(target, h, start, order), start)
    for _ in range(settings.rounds):
        before = error(value(best_codes, best_scales), target, h).sum()
        fitted = refit(target, h, best_codes)
        signed = np.where(fitted[:, None] < 0, -best_codes, best_codes)
        stored = _stored(np.abs(fitted))
        falls = error(value(signed, stored), target, h) < error(value(best_codes, best_scales), target, h)
        codes = np.where(falls[:, None, None], signed, best_codes)
        scales = np.where(falls[:, None], stored, best_scales)
        keep_better(descend(target, h, scales, codes, order, settings.sweeps), scales)
        after = error(value(best_codes, best_scales), target, h).sum()
        if before - after <= WORTHWHILE * after:
            break
    return value(best_codes, best_scales)


def _stored(scales: Float64) -> Float64:
    _, rounded = stored_scales(list(scales[:, 0]), "float16")
    return np.array(rounded)[:, None]


def brute_force(target: Float64, h: Float64, scales: Float64) -> Float64:
    """The least objective of each row over all codes for given scales ``[N, P]``."""
    columns = target.shape[1]
    best = np.empty(len(target))
    for n in range(len(target)):
        values = [sign * level for level, _ in levels(list(scales[n])) for sign in (1, -1)]
        options = np.array(list(itertools.product(sorted(set(values)), repeat=columns)))
        best[n] = error(options, np.broadcast_to(target[n], options.shape), h).min()
    return best
