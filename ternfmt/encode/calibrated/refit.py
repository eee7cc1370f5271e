"""Scales refitted to given codes in the metric of the calibration data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..least_squares import solve
from ..scales import store_scales
from ..weights import Float64
from .grid import Grid, level_of
from .target import Quadratic


def refit(quadratic: Quadratic, grid: Grid, level: Tensor, dtype: np.dtype[Any]) -> tuple[Grid, Tensor, np.dtype[Any]]:
    """Least-squares scales, as they are stored, for the rows in which they lower the objective.

    A row's objective is c - 2 a.m + a.A a in its scales a, with A_pq = t_p H' t_q and m_p = t_p H' w'. A scale that
    comes out negative changes its sign and that of its codes; planes are sorted again.

    Args:
        quadratic: the objective.
        grid: the scales so far.
        level: levels on that grid, int8 ``[K, N]``.
        dtype: the dtype scales are stored in.

    Returns:
        The new grid, the same codes as levels on it, and the dtype: float32 if float16 no longer reaches.
    """
    codes = grid.plane_codes(level).to(quadratic.target.dtype)
    planes, _, rows = codes.shape
    hessian_target = quadratic.metric.hessian @ quadratic.target
    gram = np.empty((rows, planes, planes))
    moment = np.empty((rows, planes))
    for p in range(planes):
        moment[:, p] = _row_sums(codes[p], hessian_target)
        product = quadratic.metric.hessian @ codes[p]
        for q in range(p, planes):
            gram[:, p, q] = gram[:, q, p] = _row_sums(codes[q], product)
    fitted = solve(gram, moment)
    stored = store_scales(np.abs(fitted), dtype)
    signs = np.where(fitted < 0, -1.0, 1.0)
    candidate = stored.astype(np.float64)
    before = grid.scales.T
    better = _gain(gram, moment, candidate * signs) > _gain(gram, moment, before)
    scales = np.where(better[:, None], candidate, before)
    signs = np.where(better[:, None], signs, 1.0)
    place = np.argsort(-scales, axis=1, kind="stable")
    scales = np.take_along_axis(scales, place, axis=1)
    new_grid = Grid.of(np.ascontiguousarray(scales.T), quadratic.target)
    signed = codes.to(torch.int8) * torch.from_numpy(signs.T[:, None].astype(np.int8)).to(codes.device)
    order = torch.from_numpy(np.ascontiguousarray(place.T))[:, None].to(codes.device)
    moved = signed.gather(0, order.expand_as(signed))
    return new_grid, level_of(moved, new_grid), stored.dtype


def _gain(gram: Float64, moment: Float64, scales: Float64) -> Float64:
    """How far below that of zero scales the objective is: ``[N]``."""
    return 2.0 * (scales * moment).sum(1) - np.einsum("np,npq,nq->n", scales, gram, scales)


def _row_sums(a: Tensor, b: Tensor) -> Float64:
    sums: Float64 = (a * b).sum(0, dtype=torch.float64).cpu().numpy()
    return sums
