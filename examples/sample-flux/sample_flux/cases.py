"""What models are compared on: prompts of one split, each with the seed of its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sample_flux.pipeline import SIZE
from sample_flux.prompts import CATEGORIES, SHARED, Prompt, split

# Seeds of a split start here. Training draws its noise from seeds of 62 random bits.
FIRST_SEED = {"validation": 1_000_000, "evaluation": 2_000_000}

# Of a category in `SHARED`, whose sentences are known and nearly all drawn right; more would take time from the others.
MOST_SHARED = 2040


@dataclass(frozen=True)
class Case:
    """One picture to draw."""

    prompt: Prompt
    seed: int


def make_cases(split_name: str, per_category: int, after: int = 0) -> tuple[Case, ...]:
    """The first cases of a split, category after category; prompts take turns, seeds never repeat.

    Args:
        split_name: "validation" or "evaluation".
        per_category: of each category; of those in `SHARED` there are `MOST_SHARED` at most.
        after: so many of each are left out, the first ones.

    Raises:
        ValueError: the split is neither "validation" nor "evaluation".
    """
    if split_name not in FIRST_SEED:
        raise ValueError(f"no cases of split {split_name!r}: choose from {', '.join(FIRST_SEED)}")
    prompts = split(split_name)
    return tuple(
        Case(prompts[name][i % len(prompts[name])], FIRST_SEED[split_name] + 100_000 * number + i)
        for number, name in enumerate(CATEGORIES)
        for i in range(after, min(per_category, after + MOST_SHARED) if name in SHARED else per_category)
    )


def noise(cases: Sequence[Case]) -> Tensor:
    """The noise of each case, float32 [n, 3, SIZE, SIZE]: it depends on nothing but the seed."""
    return torch.stack([torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(c.seed)) for c in cases])
