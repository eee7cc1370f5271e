"""Learning rates over the steps: when what begins to train, and how it comes to rest.

Straight-through estimation needs the rest: at a constant rate codes near a threshold go on flipping, and what is
written is one random moment of that. At rates that fall to zero they settle.
"""

from __future__ import annotations

import math

from .settings import DistilledSettings

GROUPS = ("scales", "low_rank", "codes")
"""Scales, biases, norms and other dense tensors; low-rank branches; latent weights, whose signs become codes."""


def rate(settings: DistilledSettings, group: str, step: int) -> float:
    """The learning rate of a step as a share of the group's highest, 0 to 1.

    Args:
        settings: of the run.
        group: one of `GROUPS`.
        step: from 0.
    """
    begin = {"scales": 0.0, "low_rank": settings.low_rank_from, "codes": settings.codes_from}[group] * settings.steps
    if step < begin:
        return 0.0
    rise = settings.warmup * settings.steps
    risen = min(1.0, (step - begin + 1) / rise) if rise >= 1 else 1.0
    return risen * _fallen(settings, step)


def hardness(settings: DistilledSettings, step: int) -> float:
    """How ternary weights are in a step, 0 to 1: the share of codes and scales in them, beside latent weights."""
    length = settings.soft * settings.steps
    return min(1.0, step / length) if length >= 1 else 1.0


def _fallen(settings: DistilledSettings, step: int) -> float:
    """1 until the last part begins, then down towards 0, which the step after the last would have."""
    length = settings.decay * settings.steps
    left = (settings.steps - step) / length if length >= 1 else 1.0
    if left >= 1:
        return 1.0
    return left if settings.decay_shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)
