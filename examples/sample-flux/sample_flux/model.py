"""The sample model: its sizes, and its way from a training run into a pipeline folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn

from sample_flux import pipeline, text_encoder
from sample_flux.pipeline import PATCH, SampleFluxPipeline
from sample_flux.text_encoder import TextEncoder

SHIFT = 3.0  # of the noise levels towards pure noise, where the words decide; in training and sampling

TRANSFORMER: Mapping[str, Any] = {
    "patch_size": 1,
    "in_channels": 3 * PATCH * PATCH + 2,  # row and column
    "out_channels": 3 * PATCH * PATCH,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 128,
    "pooled_projection_dim": 128,
    "guidance_embeds": False,
    "axes_dims_rope": (8, 12, 12),
}


def make_models(**overrides: Any) -> tuple[FluxTransformer2DModel, TextEncoder]:
    """A new transformer, with `TRANSFORMER`'s settings but for the overrides, and a new text encoder."""
    return FluxTransformer2DModel(**{**TRANSFORMER, **overrides}), TextEncoder()


def save_pipeline(weights: Mapping[str, Tensor], folder: Path, **overrides: Any) -> None:
    """Write a pipeline folder in bf16 that loads on its own.

    Args:
        weights: of both models, named transformer.* and text_encoder.*.
        folder: is replaced.
        overrides: see `make_models`.
    """
    transformer, encoder = make_models(**overrides)
    models = nn.ModuleDict({"transformer": transformer, "text_encoder": encoder}).to(torch.bfloat16)
    models.load_state_dict(weights)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=SHIFT)
    pipe = SampleFluxPipeline(transformer=transformer, text_encoder=encoder, scheduler=scheduler)
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder)
    # Where the classes are: diffusers looks for modules of these names in the folder. It copies them
    # into one folder for all models, so that their names must be like no other's.
    index_file = folder / "model_index.json"
    index = json.loads(index_file.read_text())
    index["_class_name"] = ["sample_flux_pipeline", "SampleFluxPipeline"]
    index["text_encoder"] = ["sample_flux_text_encoder", "TextEncoder"]
    index_file.write_text(json.dumps(index, indent=2) + "\n")
    shutil.copyfile(str(pipeline.__file__), folder / "sample_flux_pipeline.py")
    shutil.copyfile(str(text_encoder.__file__), folder / "text_encoder" / "sample_flux_text_encoder.py")
