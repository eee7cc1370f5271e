"""The obvious form of what `latent` does, to compare with."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor


def quantised(weight: Tensor, scale: Tensor) -> Tensor:
    """``sum_p s_p t_p`` with the straight-through gradient, by autograd.

    Args:
        weight: latent, ``[N, K]``.
        scale: ``[P, N]``.
    """
    codes = nearest(weight.detach(), scale.detach())
    hard = sum(scale[p, :, None] * codes[p] for p in range(len(scale)))
    return hard + (weight - weight.detach())  # adds nothing, but its gradient


def nearest(weight: Tensor, scale: Tensor) -> Tensor:
    """Codes ``[P, N, K]`` of the representable value nearest to each weight, of two the one nearer zero."""
    result = torch.zeros(len(scale), *weight.shape)
    for n, k in itertools.product(range(weight.shape[0]), range(weight.shape[1])):
        combinations = list(itertools.product((-1, 0, 1), repeat=len(scale)))
        scales = scale[:, n].tolist()
        values = [sum(c * s for c, s in zip(codes, scales, strict=True)) for codes in combinations]
        wanted = weight[n, k].item()
        best = min(range(len(values)), key=lambda i: (abs(values[i] - wanted), abs(values[i])))
        result[:, n, k] = torch.tensor(combinations[best])
    return result
