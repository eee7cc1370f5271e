"""Coordinate descent: each weight takes its best level given all others, again and again.

For weight i of a row the objective is a parabola with its minimum at v_i + [(w' - v) H']_i / H'_ii, so the nearest
level is the best one, and no step raises the objective.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .grid import Grid
from .target import Quadratic

BLOCK_COLUMNS = 64
"""Columns whose effect on each other is added one at a time; on all others, by one matrix product."""


def descend(quadratic: Quadratic, grid: Grid, level: Tensor, sweeps: int) -> Tensor:
    """Levels after at most ``sweeps`` sweeps over all columns, fewer where nothing changes any more.

    Args:
        quadratic: the objective; its order is that of the sweeps.
        grid: the levels.
        level: the start, int8 ``[K, N]``; not changed.
        sweeps: limit.
    """
    level = level.clone()
    for _ in range(sweeps):
        if not _sweep(quadratic, grid, level):
            break
    return level


def _sweep(quadratic: Quadratic, grid: Grid, level: Tensor) -> bool:
    """One sweep, in place; whether anything changed."""
    target, hessian = quadratic.target, quadratic.metric.hessian
    value = grid.value(level)
    pull = hessian @ (target - value)
    changed = torch.zeros((), dtype=torch.bool, device=level.device)
    for start in range(0, len(target), BLOCK_COLUMNS):
        stop = min(start + BLOCK_COLUMNS, len(target))
        inner = hessian[start:stop, start:stop] / hessian.diagonal()[start:stop]
        wanted = value[start:stop] + pull[start:stop] / hessian.diagonal()[start:stop, None]
        step = torch.empty_like(wanted)
        for i in range(stop - start):
            x = wanted[i]
            if i:
                x = torch.addmv(x, step[:i].T, inner[:i, i], alpha=-1)
            new = grid.nearest(x)
            step[i] = grid.value(new) - value[start + i]
            level[start + i] = new
        changed |= step.any()
        if stop < len(target):
            pull[stop:].addmm_(hessian[stop:, start:stop], step, alpha=-1)
    return bool(changed)
