"""A ternary linear layer that can be trained: codes follow from latent weights by rounding.

The forward pass uses exactly what a file would hold: scales as they are stored, and the nearest codes to the latent
weights for them. Rounding has no useful derivative, so the backward pass takes it for the identity (straight-through
estimation, Bengio et al. 2013, arXiv:1308.3432): the gradient of the rounded weight goes to the latent one.
"""

from __future__ import annotations

import itertools
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...tensor import TernaryTensor
from .layer import TernaryLayer, parameter, start_scale

MARGIN = 0.05
"""How far, as a share of the interval between two thresholds, a latent weight starts inside its code's interval."""


class LatentLinear(TernaryLayer):
    """A ternary layer whose codes are trained.

    Attributes:
        weight: latent weights, F32 ``[N, K]``.
        hardness: how ternary the weights are that it multiplies with: 1 once they are, and less in the beginning of a
            run that starts soft (Bai et al. 2018, ProxQuant, arXiv:1810.00861, go from the one to the other, too).
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        *,
        low_rank: tuple[Tensor, Tensor] | None = None,
        scale_dtype: str | None = None,
    ) -> None:
        """Start from latent weights ``[N, K]`` and scales ``[P, N]``; everything is copied."""
        super().__init__(scale, bias, low_rank, scale_dtype)
        self.weight = parameter(weight)
        self.hardness: float | Tensor = 1.0

    def codes(self) -> Tensor:
        """The nearest codes to the latent weights."""
        return codes_of(self.weight, self.scale())

    def quantised(self) -> Tensor:
        """The ternary part of the weight, F32 ``[N, K]``."""
        result: Tensor = _Quantise.apply(self.weight, self.scale())  # type: ignore[no-untyped-call]
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to ``[..., K]``."""
        weight = self.quantised()
        if isinstance(self.hardness, Tensor):
            weight = self.weight.lerp(weight, self.hardness)
        return self.with_branch(x, nn.functional.linear(x, weight, self.bias))


def start_latent(weight: Tensor, tensor: TernaryTensor) -> tuple[Tensor, Tensor]:
    """Latent weights that round to a tensor's codes, as near as may be to the weights they stand for.

    Args:
        weight: full precision, ``[N, K]``.
        tensor: its codes and scales.

    Returns:
        Latent weights F32 ``[N, K]`` and scales F32 ``[P, N]``.
    """
    device = weight.device
    scale = torch.stack([torch.from_numpy(p.scale.astype(np.float32)) for p in tensor.planes]).to(device)
    planes = [torch.from_numpy(tensor.unpack(p).reshape(tensor.n, tensor.k)) for p in range(len(tensor.planes))]
    scale = start_scale(scale)
    target = torch.zeros(tensor.n, tensor.k, device=device)
    for p, codes in enumerate(planes):
        target += scale[p, :, None] * codes.to(device)
    values, thresholds, _ = _levels(scale)
    index = torch.searchsorted(thresholds, target)
    far = torch.full_like(values[:, :1], torch.inf)
    low = torch.cat([-far, thresholds], 1).gather(1, index)
    high = torch.cat([thresholds, far], 1).gather(1, index)
    margin = MARGIN * torch.where((high - low).isfinite(), high - low, 2 * scale[:1].T)
    return weight.float().clamp(low + margin, high - margin), scale


def codes_of(weight: Tensor, scale: Tensor) -> Tensor:
    """The nearest codes, on a tie those nearer zero: int8 ``[P, N, K]`` of weights ``[N, K]``, scales ``[P, N]``."""
    if len(scale) == 1:
        return ((weight > scale.T * 0.5).to(torch.int8) - (weight < scale.T * -0.5).to(torch.int8))[None]
    _, thresholds, codes = _levels(scale)
    # Above zero a threshold belongs to the level below it, under zero to the level above it.
    index = torch.where(
        weight > 0,
        torch.searchsorted(thresholds, weight.contiguous()),
        torch.searchsorted(thresholds, weight.contiguous(), right=True),
    )
    return torch.stack([plane.gather(1, index) for plane in codes])


class _Quantise(torch.autograd.Function):
    """Latent weights ``[N, K]`` and scales ``[P, N]`` to ``sum_p s_p t_p``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        codes = codes_of(weight, scale)
        ctx.save_for_backward(codes)
        total = codes[0] * scale[0, :, None]
        for p in range(1, len(scale)):
            total = total + codes[p] * scale[p, :, None]
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        (codes,) = ctx.saved_tensors
        of_weight = gradient if ctx.needs_input_grad[0] else None
        of_scale = torch.stack([(gradient * plane).sum(1) for plane in codes]) if ctx.needs_input_grad[1] else None
        return of_weight, of_scale


@lru_cache
def _combinations(planes: int) -> tuple[tuple[int, ...], ...]:
    return tuple(itertools.product((-1, 0, 1), repeat=planes))


def _levels(scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What the planes can represent: values ``[N, L]`` ascending, thresholds ``[N, L - 1]``, codes ``[P, N, L]``."""
    table = torch.tensor(_combinations(len(scale)), dtype=torch.int8, device=scale.device)
    values = torch.zeros(scale.shape[1], len(table), dtype=scale.dtype, device=scale.device)
    for p in range(len(scale)):
        values = values + table[:, p] * scale[p, :, None]
    values, order = torch.sort(values, dim=1, stable=True)
    return values, (values[:, 1:] + values[:, :-1]) * 0.5, table.T[:, order]
