"""Trains the sample model: rectified flow on scenes that are drawn as they are needed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sample_flux.model import SHIFT, make_models
from sample_flux.muon import Muon
from sample_flux.pipeline import patchify, predict_velocity
from sample_flux.prompts import CATEGORIES, half_coloured_pairs, split
from sample_flux.scenes import render, sample_scene
from sample_flux.text_encoder import TextEncoder, tokenize

GUIDANCE_DROPOUT = 0.1  # share of prompts replaced by the empty one
WARMUP = 100  # first steps, in which the learning rate rises


@dataclass(frozen=True)
class Phase:
    """Some steps of a run.

    Attributes:
        until: the step after its last.
        rate: learning rate at its end as a share of the highest; linear from the end of the phase before.
        shift: of the noise levels towards pure noise.
        shares: of the categories, in the order of `CATEGORIES`.
        half_coloured: share of "two objects" that are sentences of `half_coloured_pairs` instead.
    """

    until: int
    rate: float
    shift: float
    shares: tuple[float, ...]
    half_coloured: float = 0.0


# First everything; then, at more noise, what was not learned so far: pairs and their places; then to rest.
BALANCED = (0.08, 0.14, 0.24, 0.10, 0.24, 0.20)
PAIRS = (0.04, 0.24, 0.15, 0.05, 0.40, 0.12)
MOSTLY_PAIRS = (0.05, 0.17, 0.24, 0.06, 0.30, 0.18)
TWO_OBJECTS = (0.05, 0.26, 0.22, 0.05, 0.26, 0.16)
PHASES = (
    Phase(1800, 1.0, SHIFT, BALANCED),
    Phase(4000, 1600 / 3800, SHIFT, BALANCED),
    Phase(4020, 0.65, 5.0, PAIRS),
    Phase(4950, 0.65, 5.0, PAIRS),
    Phase(5650, 0.0, 4.0, MOSTLY_PAIRS),
    Phase(5700, 0.6, 4.0, MOSTLY_PAIRS),
    Phase(8750, 0.6, 4.0, MOSTLY_PAIRS),
    Phase(12000, 0.0, 3.5, TWO_OBJECTS, 0.5),
    Phase(12050, 0.3, 3.5, TWO_OBJECTS, 0.8),
    Phase(13800, 0.0, 3.5, TWO_OBJECTS, 0.8),
)


@dataclass(frozen=True)
class Settings:
    """What a run is made of.

    Attributes:
        phases: one after the other.
        batch: pictures in a step.
        muon_lr: highest learning rate of the blocks' matrices.
        adam_lr: highest learning rate of everything else.
        seed: of the weights and, with the number of the step, of its data.
    """

    phases: tuple[Phase, ...] = PHASES
    batch: int = 64
    muon_lr: float = 4e-3
    adam_lr: float = 2e-3
    seed: int = 0

    @property
    def steps(self) -> int:
        """How many steps there are."""
        return self.phases[-1].until

    def phase(self, step: int) -> Phase:
        """The phase of a step."""
        return next(phase for phase in self.phases if step < phase.until)

    def rate(self, step: int) -> float:
        """The learning rate of a step as a share of the highest."""
        ends = [(0, self.phases[0].rate), *((phase.until, phase.rate) for phase in self.phases)]
        steps, rates = zip(*ends, strict=True)
        return float(min((step + 1) / WARMUP, np.interp(step, steps, rates)))


@dataclass(frozen=True)
class Batch:
    """One step's data: ``clean`` and ``noise`` [n, patches, channels], ``times`` [n], ``tokens`` [n, words]."""

    clean: Tensor
    noise: Tensor
    times: Tensor
    tokens: Tensor


def make_batch(settings: Settings, step: int) -> Batch:
    """Draw the data of one step."""
    rng = np.random.default_rng([settings.seed, step])
    phase, prompts = settings.phase(step), split("train")
    categories = rng.choice(CATEGORIES, settings.batch, p=phase.shares)
    chosen = [prompts[name][rng.integers(len(prompts[name]))] for name in categories]
    if phase.half_coloured:
        pairs = half_coloured_pairs()
        replaced = (categories == "two objects") & (rng.random(len(chosen)) < phase.half_coloured)
        for number in replaced.nonzero()[0]:
            chosen[number] = pairs[rng.integers(len(pairs))]
    images = torch.from_numpy(render([sample_scene(prompt, rng) for prompt in chosen]))
    kept = rng.random(settings.batch) >= GUIDANCE_DROPOUT
    tokens = tokenize([prompt.text if keep else "" for prompt, keep in zip(chosen, kept, strict=True)])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    clean = patchify(images * 2 - 1)
    # One noise level from each of n equal parts of a shifted logit-normal distribution.
    parts = (torch.arange(settings.batch) + torch.rand(settings.batch, generator=generator)) / settings.batch
    times = torch.sigmoid(torch.special.ndtri(parts) + math.log(phase.shift))
    return Batch(clean, torch.randn(clean.shape, generator=generator), times, tokens)


class Trainer:
    """The models, their optimisers, and how far they have come.

    There is no moving average of the weights: the learning rate falls to zero, which does the same.
    """

    def __init__(self, settings: Settings, **model: Any) -> None:
        torch.manual_seed(settings.seed)
        self.settings = settings
        self.transformer, self.text_encoder = make_models(**model)
        self.models = nn.ModuleDict({"transformer": self.transformer, "text_encoder": self.text_encoder})
        zero_gates(self.transformer)
        inside = {name: p for name, p in self.transformer.named_parameters() if p.ndim == 2 and "blocks." in name}
        taken = set(map(id, inside.values()))
        rest = [p for p in self.models.parameters() if id(p) not in taken]
        self.optimisers = {
            "muon": Muon(inside.values(), lr=settings.muon_lr),
            "adamw": torch.optim.AdamW(rest, lr=settings.adam_lr, betas=(0.9, 0.99), weight_decay=0.0),
        }
        self.peaks = {"muon": settings.muon_lr, "adamw": settings.adam_lr}
        self.forward: Callable[..., Any] = self.transformer
        self.step = 0
        self.seconds = 0.0

    def train_step(self) -> float:
        """Do one step; return its loss before the step."""
        start = time.perf_counter()
        batch = make_batch(self.settings, self.step)
        loss = velocity_loss(self.forward, self.text_encoder, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self.peaks[name] * self.settings.rate(self.step)
            optimiser.step()
            optimiser.zero_grad()
        self.step += 1
        self.seconds += time.perf_counter() - start
        return loss.item()

    def save(self, path: Path) -> None:
        """Write a checkpoint: whole or not at all."""
        state = {
            "models": self.models.state_dict(),
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self.optimisers.items()},
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of a run with the same settings so far."""
        state = torch.load(path, weights_only=True)
        self.models.load_state_dict(state["models"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.step, self.seconds = state["step"], state["seconds"]


def zero_gates(transformer: nn.Module) -> None:
    """Start every block as the identity and the output at zero (adaLN-zero, Peebles and Xie 2022)."""
    for name, parameter in transformer.named_parameters():
        if (".norm" in name and ".linear." in name) or name.startswith(("norm_out", "proj_out")):
            nn.init.zeros_(parameter)


def velocity_loss(transformer: Callable[..., Any], text_encoder: TextEncoder, batch: Batch) -> Tensor:
    """Mean squared error of the velocity, noise - clean."""
    times = batch.times[:, None, None]
    noisy = (1 - times) * batch.clean + times * batch.noise
    velocity = predict_velocity(transformer, noisy, batch.times, *text_encoder(batch.tokens))
    return nn.functional.mse_loss(velocity, batch.noise - batch.clean)
