"""The ``config.json`` that diffusers wants beside a FLUX.1 transformer, from the shapes of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .policies import FLUX1
from .recipe import Shaped

HEAD_DIM = 128
AXES_DIMS_ROPE = (16, 56, 56)
"""How FLUX.1 divides a head's channels among the axes of its position embedding: not to be seen in any shape."""

_TELLING = {
    "x_embedder.weight",
    "context_embedder.weight",
    "proj_out.weight",
    "time_text_embed.text_embedder.linear_1.weight",
    "transformer_blocks.0.norm1_context.linear.weight",
    "single_transformer_blocks.0.norm.linear.weight",
    "single_transformer_blocks.0.attn.norm_q.weight",
}
"""What every FLUX.1 has, and no other model has all of."""


def flux_config(tensors: Mapping[str, Shaped]) -> dict[str, Any] | None:
    """The config of a whole FLUX.1 checkpoint under diffusers' names; None for anything else.

    FLUX.1 dev, schnell, Fill, Kontext and what is made of them differ in depth, channels and guidance alone.
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if not shapes.keys() >= _TELLING or shapes["single_transformer_blocks.0.attn.norm_q.weight"] != (HEAD_DIM,):
        return None
    return {
        "_class_name": FLUX1.classes[0],
        "patch_size": 1,
        "in_channels": shapes["x_embedder.weight"][1],
        "out_channels": shapes["proj_out.weight"][0],
        "num_layers": _depth(tensors, "transformer_blocks."),
        "num_single_layers": _depth(tensors, "single_transformer_blocks."),
        "attention_head_dim": HEAD_DIM,
        "num_attention_heads": shapes["x_embedder.weight"][0] // HEAD_DIM,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in shapes,
        "axes_dims_rope": list(AXES_DIMS_ROPE),
    }


def _depth(tensors: Mapping[str, Shaped], blocks: str) -> int:
    return 1 + max(int(name.removeprefix(blocks).partition(".")[0]) for name in tensors if name.startswith(blocks))
