"""Paired comparison of two models on the same prompts and the same noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sample_flux.cases import Case, noise
from sample_flux.draw import Pictures
from sample_flux.judge import passes
from sample_flux.pipeline import patchify, predict_velocity
from sample_flux.prompts import CATEGORIES
from sample_flux.scenes import render, sample_scene

RESAMPLES = 10_000
TIMES = (0.05, 0.2, 0.4, 0.6, 0.8, 0.95)
VELOCITY_CASES = 96  # for `velocity_errors`: enough for two digits

Passed = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Comparison:
    """Model B beside model A. Scores are the mean of the six categories' shares of passed pictures.

    Attributes:
        pairs: number of prompts with a seed, the same for both.
        by_category: share of passed pictures, A and B.
        score_a: of A.
        score_b: of B.
        difference: B - A.
        retention: B / A; None if A passes nothing.
    """

    pairs: int
    by_category: dict[str, tuple[float, float]]
    score_a: Estimate
    score_b: Estimate
    difference: Estimate
    retention: Estimate | None


def judge_pictures(cases: Sequence[Case], pictures: Pictures) -> Passed:
    """Judge the picture of each case, uint8 [n, size, size, 3]: bool [n]."""
    images = pictures.transpose(0, 3, 1, 2).astype(np.float32) / 255
    return np.array([passes(case.prompt, image) for case, image in zip(cases, images, strict=True)])


def compare(cases: Sequence[Case], passed_a: Passed, passed_b: Passed) -> Comparison:
    """Compare what the judge says of two models' pictures of the same cases.

    Intervals are from a paired bootstrap within each category: pairs are drawn with replacement. A
    pair has one of four outcomes, so that drawing how often each comes up is the same.
    """
    rng = np.random.default_rng(0)
    categories = np.array([CATEGORIES.index(case.prompt.category) for case in cases])
    outcomes = 2 * passed_a + passed_b  # 0 none, 1 only B, 2 only A, 3 both
    shares, drawn = {}, []
    for number, name in enumerate(CATEGORIES):
        of = outcomes[categories == number]
        shares[name] = np.bincount(of, minlength=4) / max(len(of), 1)
        drawn.append(rng.multinomial(len(of), shares[name], RESAMPLES) / max(len(of), 1))
    by_category = {name: (float(share[2] + share[3]), float(share[1] + share[3])) for name, share in shares.items()}
    a, b = np.mean(list(by_category.values()), axis=0).tolist()
    mean = np.mean(drawn, axis=0)  # [RESAMPLES, 4]
    drawn_a, drawn_b = mean[:, 2] + mean[:, 3], mean[:, 1] + mean[:, 3]
    retention = _estimate(b / a, drawn_b / np.maximum(drawn_a, 1e-9)) if a else None
    estimates = (_estimate(a, drawn_a), _estimate(b, drawn_b), _estimate(b - a, drawn_b - drawn_a))
    return Comparison(len(cases), by_category, *estimates, retention)


def _estimate(value: float, resampled: npt.NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def picture_distance(a: Pictures, b: Pictures) -> float:
    """Root mean square difference of two models' pictures, as a share of the full range."""
    return float(np.sqrt(((a.astype(np.float64) - b) ** 2).mean()) / 255)


@torch.inference_mode()
def velocity_errors(
    pipe_a: Any, pipe_b: Any, cases: Sequence[Case], guidance: float | None = None
) -> dict[float, float]:
    """How far B's velocity is from A's, relative to A's, squared: by noise level.

    With ``guidance`` it is the velocity that sampling goes by. The noisy pictures are scenes drawn from the cases'
    prompts, mixed with the cases' noise. Of many cases some are taken, at equal distances: VELOCITY_CASES at least.
    """
    cases = cases[:: max(1, len(cases) // VELOCITY_CASES)]
    scenes = [sample_scene(case.prompt, np.random.default_rng(case.seed)) for case in cases]
    clean, full = patchify(torch.from_numpy(render(scenes)) * 2 - 1), patchify(noise(cases))
    texts = [case.prompt.text for case in cases]
    errors = {}
    for time in TIMES:
        noisy, times = (1 - time) * clean + time * full, torch.full((len(cases),), time)
        a, b = (_velocity(pipe, noisy, times, texts, guidance) for pipe in (pipe_a, pipe_b))
        errors[time] = float(((b - a) ** 2).mean() / (a**2).mean())
    return errors


def _velocity(pipe: Any, noisy: Tensor, times: Tensor, texts: Sequence[str], guidance: float | None) -> Tensor:
    with_prompt = predict_velocity(pipe.transformer, noisy, times, *pipe.text_encoder.encode(texts))
    if guidance is None:
        return with_prompt
    without = predict_velocity(pipe.transformer, noisy, times, *pipe.text_encoder.encode([""] * len(texts)))
    return without + guidance * (with_prompt - without)
