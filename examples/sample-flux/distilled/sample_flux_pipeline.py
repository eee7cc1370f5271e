"""The sample model's pipeline: words to a picture by Euler steps, with classifier-free guidance.

A pipeline folder holds a copy of this file, so that it loads on its own:

    DiffusionPipeline.from_pretrained("examples/sample-flux/model", trust_remote_code=True)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel, ImagePipelineOutput
from torch import Tensor, nn

SIZE = 24  # pixels
PATCH = 4  # pixels along a token
# Every token is also told its row and column, from -PLACE_SCALE to PLACE_SCALE: rotary embeddings
# alone say where tokens are from each other, and "left of" was learned far too slowly from them.
PLACE_SCALE = 3.0


def patchify(images: Tensor) -> Tensor:
    """Cut [n, 3, s, s] images into [n, (s / PATCH)**2, 3 * PATCH**2] patches."""
    return nn.functional.pixel_unshuffle(images, PATCH).flatten(2).transpose(1, 2)


def unpatchify(patches: Tensor) -> Tensor:
    """Undo `patchify`."""
    n, count, _ = patches.shape
    side = int(count**0.5)
    return nn.functional.pixel_shuffle(patches.transpose(1, 2).reshape(n, -1, side, side), PATCH)


def predict_velocity(
    transformer: FluxTransformer2DModel, noisy: Tensor, times: Tensor, states: Tensor, pooled: Tensor
) -> Tensor:
    """Ask the transformer for noise - picture.

    Args:
        transformer: the model.
        noisy: patches, [n, count, channels].
        times: noise levels from 0, the picture, to 1, noise: [n].
        states: what the text encoder gives for the words, [n, words, width].
        pooled: their mean, [n, width].

    Returns:
        The velocity, like ``noisy``.
    """
    side = int(noisy.shape[1] ** 0.5)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image_ids = torch.stack([torch.zeros(side, side), row, column], -1).flatten(0, 1)
    places = (image_ids[:, 1:] * 2 / (side - 1) - 1) * PLACE_SCALE
    (velocity,) = transformer(
        hidden_states=torch.cat([noisy, places.to(noisy).expand(len(noisy), -1, -1)], -1),
        encoder_hidden_states=states,
        pooled_projections=pooled,
        timestep=times,
        img_ids=image_ids.to(noisy.device),
        txt_ids=torch.zeros(states.shape[1], 3, device=noisy.device),
        return_dict=False,
    )
    result: Tensor = velocity
    return result


class SampleFluxPipeline(DiffusionPipeline):  # type: ignore[misc]
    """Draws circles, squares, triangles and crosses.

    Args:
        transformer: the model that is sampled.
        text_encoder: a `TextEncoder`.
        scheduler: its shift is the one of training.
    """

    def __init__(
        self, transformer: FluxTransformer2DModel, text_encoder: Any, scheduler: FlowMatchEulerDiscreteScheduler
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, text_encoder=text_encoder, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        num_inference_steps: int = 12,
        guidance_scale: float = 3.0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw one picture for each prompt.

        Args:
            prompt: one sentence or n.
            num_inference_steps: Euler steps.
            guidance_scale: how far to go from the empty prompt's velocity beyond the prompt's.
            generator: draws the noise, unless ``latents`` is given.
            latents: noise, [n, 3, SIZE, SIZE].
            output_type: "pil", or "np" for float32 [n, SIZE, SIZE, 3] in [0, 1].

        Raises:
            ValueError: a prompt has a word that the model has never seen.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if latents is None:
            latents = torch.randn((len(prompts), 3, SIZE, SIZE), generator=generator)
        sample = patchify(latents.to(self.device))
        states, pooled = self.text_encoder.encode([*prompts, ""])
        empty_states, empty_pooled = (value[-1:].expand(len(prompts), *value.shape[1:]) for value in (states, pooled))
        states, pooled = torch.cat([empty_states, states[:-1]]), torch.cat([empty_pooled, pooled[:-1]])

        steps = num_inference_steps
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), device=self.device)
        for timestep in self.progress_bar(self.scheduler.timesteps):
            times = (timestep / self.scheduler.config.num_train_timesteps).expand(2 * len(prompts))
            both = predict_velocity(self.transformer, torch.cat([sample, sample]), times, states, pooled)
            without, with_prompt = both.chunk(2)
            velocity = without + guidance_scale * (with_prompt - without)
            (sample,) = self.scheduler.step(velocity, timestep, sample, return_dict=False)
        images = (unpatchify(sample) / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().float().numpy()
        return ImagePipelineOutput(images=self.numpy_to_pil(images) if output_type == "pil" else images)
