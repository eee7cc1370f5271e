"""Noise levels, and what a picture looks like at one, for the two kinds of schedulers that there are.

A flow goes straight from picture to noise, z_t = (1 - t) z_0 + t noise, with t logit-normal in training (Esser et al.
2024, arXiv:2403.03206), moved by the scheduler's shift. A diffusion keeps the variance, z_t = sqrt(a_t) z_0 +
sqrt(1 - a_t) noise, with a_t from a table of training steps that are all as likely (Ho et al. 2020, arXiv:2006.11239);
its noise level is the step over their number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

SCHEDULERS = (
    "FlowMatchEulerDiscreteScheduler",
    "CogVideoXDDIMScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)
"""Those whose sampling is understood: they give the transformer the latents as they are."""


def follows_flow(scheduler: Any) -> bool:
    """Whether a scheduler of `SCHEDULERS` samples along a flow; the solvers do either."""
    return not hasattr(scheduler, "alphas_cumprod") or bool(scheduler.config.get("use_flow_sigmas"))


def shift_of(scheduler: Any, mu: float | None) -> float:
    """By how much a flow's noise levels are moved, after ``set_timesteps`` was called with ``mu``."""
    if not follows_flow(scheduler):
        return 1.0
    if mu is not None and scheduler.config.get("use_dynamic_shifting"):
        return math.exp(mu)
    return float(scheduler.shift if hasattr(scheduler, "shift") else scheduler.config.flow_shift)


def signal_of(scheduler: Any) -> tuple[float, ...] | None:
    """A diffusion's table: the part a_t of the variance that is the picture's, for each step. None for a flow."""
    return None if follows_flow(scheduler) else tuple(scheduler.alphas_cumprod.tolist())


def levels_of_step(scheduler: Any, timestep: Any, done: int) -> tuple[float, float]:
    """Noise levels before and after the sampling step at hand, of which ``done`` are done."""
    if follows_flow(scheduler):
        index = scheduler.step_index - 1  # of the step that was made
        return float(scheduler.sigmas[index]), float(scheduler.sigmas[index + 1])
    steps = scheduler.config.num_train_timesteps
    after = scheduler.timesteps[done + 1 : done + 2]
    return float(timestep) / steps, float(after[0]) / steps if len(after) else 0.0


def draw_levels(
    rng: np.random.Generator, size: int, shift: float, signal: Sequence[float] | None = None
) -> npt.NDArray[np.float32]:
    """Noise levels, float32 ``[size]``: one from each of ``size`` equally probable parts, in any order."""
    uniform = (rng.permutation(size) + rng.random(size)) / size
    if signal is not None:
        return (np.floor(uniform * len(signal)) / len(signal)).astype(np.float32)
    normal = torch.special.ndtri(torch.from_numpy(uniform.clip(1e-6, 1 - 1e-6))).numpy()
    return (1 / (1 + np.exp(-(normal + math.log(shift))))).astype(np.float32)


def noisy(latents: Tensor, levels: Tensor, rng: np.random.Generator, signal: Sequence[float] | None = None) -> Tensor:
    """Pictures ``[B, ...]``, which are overwritten, with fresh noise, at noise levels ``[B]``."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(int(rng.integers(2**62))))
    shape = (-1, *[1] * (latents.ndim - 1))
    if signal is None:
        return latents.lerp_(noise, levels.reshape(shape))
    kept = torch.tensor(signal)[(levels * len(signal)).round().long()].reshape(shape)
    return latents.mul_(kept.sqrt()).addcmul_(noise, (1 - kept).sqrt())
