"""One layer: from its weight and the second moments of its inputs to codes and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...container import DTYPES
from ...pack import pack, unpack
from ...tensor import Plane, TernaryTensor
from ..data_free import data_free
from ..scales import check_scale_dtype, store_scales
from ..settings import LayerSettings
from ..weights import Float64
from .coordinate_descent import descend
from .error_feedback import round_with_feedback
from .grid import Grid, level_of
from .refit import refit
from .settings import CalibratedSettings
from .target import Metric, Quadratic, make_quadratic

WORTHWHILE = 1e-4
"""Descent and refit go on while they lower the objective of the whole layer by at least this part of it."""

ROWS = 1 << 12
"""Rows whose scales are chosen at a time."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to store a layer.

    Attributes:
        grid: scales.
        level: int8 ``[K, N]``, in the quadratic's order.
        error: the objective of each row, float64 ``[N]``.
        scale_dtype: what the scales are stored in.
    """

    grid: Grid
    level: Tensor
    error: Tensor
    scale_dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class SolvedLayer:
    """What `solve_layer` gives.

    Attributes:
        tensor: codes and scales.
        error: E|W x - V x'|^2 on the calibration data, with damping, up to what no V changes.
        exact_error: the same for `exact` (or `planes`) on the weight alone.
    """

    tensor: TernaryTensor
    error: float
    exact_error: float


def solve_layer(
    weight: Tensor, metric: Metric, layer: LayerSettings, settings: CalibratedSettings, name: str = "weight"
) -> SolvedLayer:
    """Codes and scales that keep the layer's output on the calibration data.

    Error feedback, then coordinate descent and refitted scales in turn until little falls. Of every row the better
    one of this and of what the data-free rule gives is kept, so no row is worse than there.

    Args:
        weight: ``[N, K]`` or of higher rank.
        metric: of the layer's inputs.
        layer: planes and scale dtype; its method is not looked at.
        settings: as for the whole model.
        name: the tensor's name, for errors.

    Raises:
        WeightError: a weight is NaN or Inf.
    """
    matrix = weight.reshape(len(weight), -1).to(metric.hessian)
    quadratic = make_quadratic(matrix, metric)
    asked = check_scale_dtype(layer.scale_dtype and DTYPES[layer.scale_dtype])
    plain = _data_free(quadratic, matrix, layer, name)
    stored = store_scales(_fitting_scales(quadratic, layer.planes), asked)
    grid = Grid.of(stored.astype(np.float64), quadratic.target)
    level = round_with_feedback(quadratic, grid)
    fed_back = Candidate(grid, level, quadratic.error(grid.value(level)), stored.dtype)
    best = improve(quadratic, _better(plain, fed_back, quadratic), settings)
    return SolvedLayer(_tensor(best, quadratic, tuple(weight.shape)), float(best.error.sum()), float(plain.error.sum()))


def improve(quadratic: Quadratic, start: Candidate, settings: CalibratedSettings) -> Candidate:
    """Descent and refit in turn while that is worth while; no row gets worse."""
    best = start
    for _ in range(settings.rounds):
        grid, level, dtype = refit(quadratic, best.grid, best.level, best.scale_dtype)
        level = descend(quadratic, grid, level, settings.sweeps)
        found = _better(best, Candidate(grid, level, quadratic.error(grid.value(level)), dtype), quadratic)
        gained = float(best.error.sum() - found.error.sum())
        best = found
        if gained <= WORTHWHILE * float(best.error.sum()):
            break
    return best


def _better(first: Candidate, second: Candidate, quadratic: Quadratic) -> Candidate:
    """The better of two row by row, of equal ones the first."""
    take = second.error < first.error
    scales = np.where(take.cpu().numpy(), second.grid.scales, first.grid.scales)
    dtype = max(first.scale_dtype, second.scale_dtype, key=lambda d: d.itemsize)
    return Candidate(
        Grid.of(scales, quadratic.target),
        torch.where(take, second.level, first.level),
        torch.where(take, second.error, first.error),
        dtype,
    )


def _data_free(quadratic: Quadratic, matrix: Tensor, layer: LayerSettings, name: str) -> Candidate:
    """What the rule that knows no data gives."""
    tensor = data_free(matrix, layer, name)
    scales = np.stack([plane.scale.astype(np.float64) for plane in tensor.planes])
    grid = Grid.of(scales, quadratic.target)
    codes = torch.stack([torch.from_numpy(unpack(plane.codes, tensor.k)) for plane in tensor.planes])
    level = level_of(codes.to(matrix.device)[:, :, quadratic.metric.order].transpose(1, 2).contiguous(), grid)
    return Candidate(grid, level, quadratic.error(grid.value(level)), tensor.scale.dtype)


def _fitting_scales(quadratic: Quadratic, planes: int) -> Float64:
    """Unrounded scales of least squared error on the target: float64 ``[P, N]``.

    One plane: each column's error weighs as much as its input's second moment, which is the objective without the
    products of different inputs. Best support: the weights above half the scale; so a sort finds it.
    """
    if planes > 1:
        tensor = data_free(quadratic.target.T.contiguous(), LayerSettings(planes=planes, scale_dtype="F32"))
        return np.stack([plane.scale.astype(np.float64) for plane in tensor.planes])
    weights = quadratic.metric.hessian.diagonal().to(torch.float64)
    scales = np.empty((1, quadratic.target.shape[1]))
    for start in range(0, scales.shape[1], ROWS):
        magnitude, order = quadratic.target[:, start : start + ROWS].abs().sort(dim=0, descending=True)
        weight = weights[order]
        moment = (weight * magnitude).cumsum(0)
        mass = weight.cumsum(0)
        best = (moment * moment / mass).argmax(0, keepdim=True)
        scales[0, start : start + ROWS] = (moment.gather(0, best) / mass.gather(0, best))[0].cpu().numpy()
    return scales


def _tensor(candidate: Candidate, quadratic: Quadratic, shape: tuple[int, ...]) -> TernaryTensor:
    grid = candidate.grid
    codes = grid.plane_codes(candidate.level)
    natural = torch.empty_like(codes)
    natural[:, quadratic.metric.order] = codes
    # A plane without a code other than zero has scale zero (SPEC).
    used = codes.any(dim=1).cpu().numpy()
    return TernaryTensor(
        shape,
        tuple(
            Plane(
                pack(np.ascontiguousarray(natural[p].T.cpu().numpy())),
                np.where(used[p], grid.scales[p], 0.0).astype(candidate.scale_dtype),
            )
            for p in range(len(codes))
        ),
    )
