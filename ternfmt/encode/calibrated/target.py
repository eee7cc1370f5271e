"""The quadratic that a layer's codes and scales are to minimise.

With x the teacher's input of the layer and x' the student's, the squared error of its output is

    E|W x - V x'|^2 + d |V - W|^2  =  tr((V - W') H' (V - W')^T) + what no V changes

with H' = H + d I, H = E[x' x'^T], W' = W (G + d I) H'^-1 and G = E[x x'^T]. The damping d keeps V near W where the
calibration data say nothing. Reading the student's own inputs and aiming at the teacher's outputs is the
asymmetric target of GPTAQ (Li et al. 2025, arXiv:2504.02692); the damping is GPTQ's (arXiv:2210.17323).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .second_moments import Moments

DAMPING_FACTOR = 10.0
"""Where rounding errors leave H' without a Cholesky factor, the damping grows by this factor."""


@dataclass(frozen=True, eq=False)
class Metric:
    """How much errors of a weight matter: what all layers that read the same input share.

    Attributes:
        hessian: H', its rows and columns in ``order``, ``[K, K]``.
        factor: R, upper triangular with H' = R R^T, ``[K, K]``.
        order: the original column at each place, int64 ``[K]``.
        cross: G + d I, columns in ``order``, ``[K, K]``; None where the target is the weight itself.
    """

    hessian: Tensor
    factor: Tensor
    order: Tensor
    cross: Tensor | None


@dataclass(frozen=True, eq=False)
class Quadratic:
    """tr((V - W') H' (V - W')^T), columns first: everything of N rows lies as ``[K, N]``, columns in ``order``.

    Attributes:
        metric: H' and its factor.
        target: W'^T, ``[K, N]``.
    """

    metric: Metric
    target: Tensor

    def error(self, values: Tensor) -> Tensor:
        """The objective of each row for dequantised weights ``[K, N]``: float64 ``[N]``."""
        difference = values - self.target
        return (difference * (self.metric.hessian @ difference)).sum(0, dtype=torch.float64)


def make_metric(moments: Moments, *, damping: float, act_order: bool) -> Metric:
    """The metric of the layers that have these inputs.

    Args:
        moments: their matrices may be overwritten.
        damping: d in units of the mean of H's diagonal, > 0.
        act_order: columns in the order of decreasing H_ii; False leaves them as they are.
    """
    hessian, cross = moments.student, moments.cross
    diagonal = hessian.diagonal()
    # Inputs that are always zero leave nothing but the weights themselves to be near to.
    unit = float(diagonal.mean())
    added = damping * (unit if unit > 0 else 1.0)
    order = torch.arange(len(hessian), device=hessian.device)
    if cross is not None:
        cross.diagonal().add_(added)
    if act_order:
        order = torch.sort(diagonal, descending=True, stable=True).indices
        hessian = hessian[order][:, order]
        cross = None if cross is None else cross[:, order]
    hessian.diagonal().add_(added)
    while (factor := _upper_factor(hessian)) is None:
        more = added * (DAMPING_FACTOR - 1.0)
        hessian.diagonal().add_(more)
        if cross is not None:
            cross[order, torch.arange(len(order), device=order.device)] += more
        added += more
    return Metric(hessian, factor, order, cross)


def make_quadratic(weight: Tensor, metric: Metric) -> Quadratic:
    """The quadratic of a layer with weight ``[N, K]``, of the metric's dtype and on its device."""
    if metric.cross is None:
        return Quadratic(metric, weight[:, metric.order].T.contiguous())
    # H' = R R^T with R upper: solve R y = (W (G + d I))^T, then R^T z = y.
    half = torch.linalg.solve_triangular(metric.factor, metric.cross.T @ weight.T, upper=True)
    return Quadratic(metric, torch.linalg.solve_triangular(metric.factor.T, half, upper=False))


def _upper_factor(hessian: Tensor) -> Tensor | None:
    """R, upper triangular, with R R^T = hessian; None where it is not positive definite."""
    # Reversing rows and columns turns the lower factor that LAPACK gives into an upper one.
    lower, info = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    if int(info) or not bool(torch.isfinite(lower.diagonal()).all()):
        return None
    return lower.flip(0, 1)
