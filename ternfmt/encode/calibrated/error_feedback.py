"""Rounding with error feedback: each column makes up for the errors of those before it.

With H' = R R^T, R upper triangular, the error of a row is |(v - w') R|^2, and its term j depends on the columns up to
j alone. So column j is rounded from

    w'_j + sum over i < j of (w'_i - v_i) R_ij / R_jj

which is what makes term j smallest. This is LDLQ (Chee et al. 2023, arXiv:2307.13304), and GPTQ (Frantar et al. 2022,
arXiv:2210.17323) in another form: GPTQ's U, the upper factor of H'^-1, is R^-1. It needs no inverse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .grid import Grid
from .target import Quadratic

BLOCK_COLUMNS = 64
"""Columns whose feedback is added one at a time; that of all columns before them is one matrix product."""


def round_with_feedback(quadratic: Quadratic, grid: Grid) -> Tensor:
    """Levels of all weights, int8 ``[K, N]``, in the quadratic's order."""
    target, factor = quadratic.target, quadratic.metric.factor
    level = torch.empty(target.shape, dtype=torch.int8, device=target.device)
    error = torch.empty_like(target)
    for start in range(0, len(target), BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, len(target))
        gains = factor[:stop, start:stop] / factor.diagonal()[start:stop]
        wanted = torch.addmm(target[start:stop], gains[:start].T, error[:start])
        for j in range(start, stop):
            x = wanted[j - start]
            if j > start:
                x = torch.addmv(x, error[start:j].T, gains[start:j, j - start])
            level[j] = grid.nearest(x)
            error[j] = target[j] - grid.value(level[j])
    return level
