"""Pipelines that guide in the three ways there are, around a transformer whose velocity is known."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

TOKENS, CHANNELS, WORDS, WIDTH = 5, 4, 3, 6


class Transformer(nn.Module):
    """Velocity: everything that it is told, mixed."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(CHANNELS, CHANNELS)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        timestep: Tensor,
        guidance: Tensor | None = None,
        img_ids: Tensor | None = None,
        lengths: list[int] | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        return_dict: bool = True,
    ) -> Any:
        told = encoder_hidden_states.mean((1, 2)) + timestep + (0 if guidance is None else guidance)
        return (self.mix(hidden_states[..., :CHANNELS]) + told[:, None, None],)


class Pipeline:
    """Kinds: ``doubled`` batch, ``two`` calls, ``embedded`` guidance; what else it does is set on the instance."""

    scale = 1.0  # of the timestep that the transformer is told
    offset = 0.0
    extra = 0  # channels beside the latent's
    steps_to = 0.0  # lowest noise level
    changing = False
    rotary = False
    rotary_of_rows = False
    unequal = False
    broken = False
    rising = 0.0  # by how much guidance grows with each step

    def __init__(self, kind: str, scheduler: Any = None, **config: Any) -> None:
        torch.manual_seed(0)
        self.kind, self.transformer = kind, Transformer().eval().requires_grad_(False)
        self.scheduler = scheduler or FlowMatchEulerDiscreteScheduler(**{"shift": 2.0, **config})
        self.runs: list[int] = []

    def set_progress_bar_config(self, **kwargs: Any) -> None:
        pass

    def encode(self, prompts: list[str]) -> Tensor:
        words = max(len(prompt.split()) for prompt in prompts) if self.unequal else WORDS
        rows = [torch.full((words, WIDTH), float(sum(map(ord, prompt)) % 97) / 97) for prompt in prompts]
        return torch.stack(rows)

    def __call__(
        self,
        prompt: list[str],
        num_inference_steps: int = 3,
        guidance_scale: float = 2.0,
        generator: torch.Generator | None = None,
        output_type: str = "pil",
    ) -> Tensor:
        if any("forbidden" in text for text in prompt):
            raise ValueError("unknown word 'forbidden'")
        self.runs.append(len(prompt))
        n = len(prompt)
        sample = torch.randn((n, TOKENS, CHANNELS), generator=generator)
        extra = torch.arange(float(n * TOKENS * self.extra)).reshape(n, TOKENS, self.extra)
        if isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler):
            mu = {"mu": 0.7} if self.scheduler.config.use_dynamic_shifting else {}
            levels = np.linspace(1, 1 / num_inference_steps, num_inference_steps)
            self.scheduler.set_timesteps(sigmas=levels, **mu)
        else:
            self.scheduler.set_timesteps(num_inference_steps)
        states, empty = self.encode(prompt), self.encode([""] * n) if not self.unequal else None
        ids = torch.arange(TOKENS * 3.0).reshape(TOKENS, 3)
        for number, timestep in enumerate(self.scheduler.timesteps):
            if self.steps_to and timestep < 1000 * self.steps_to:
                break
            told = (timestep / 1000 * self.scale + self.offset).expand(n)
            hidden = torch.cat([sample, extra], -1)
            common = {"img_ids": ids + number * self.changing, "return_dict": False}
            if self.rotary:
                common["rotary"] = (states, states) if self.rotary_of_rows else (ids.cos(), ids.sin())
            if self.kind == "doubled":
                (both,) = self.transformer(
                    hidden_states=torch.cat([hidden, hidden]),
                    encoder_hidden_states=torch.cat([empty, states]),
                    timestep=torch.cat([told, told]),
                    **common,
                )
                without, with_ = both.chunk(2)
                velocity = without + (guidance_scale + number * self.rising) * (with_ - without)
            elif self.kind == "two":
                (with_,) = self.transformer(hidden, states, timestep=told, lengths=[WORDS] * n, **common)
                (without,) = self.transformer(hidden, empty, timestep=told, lengths=[1] * n, **common)
                velocity = without + guidance_scale * (with_ - without)
            else:
                guidance = torch.full((n,), guidance_scale)
                (velocity,) = self.transformer(hidden, states, told, guidance=guidance, **common)
            if self.broken:
                velocity = velocity * torch.nan
            # As pipelines of diffusers do.
            takes = inspect.signature(self.scheduler.step).parameters
            extra_arguments = {"generator": generator} if "generator" in takes else {}
            sample = self.scheduler.step(velocity, timestep, sample, return_dict=False, **extra_arguments)[0]
        return sample
