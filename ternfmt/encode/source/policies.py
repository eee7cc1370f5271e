"""The architectures whose checkpoints are known, and how they are told apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from .policy import COMFYUI_PREFIX, GENERAL, Policy

FLUX1 = Policy(
    "flux1",
    "FLUX.1",
    blocks=("transformer_blocks", "single_transformer_blocks", "double_blocks", "single_blocks"),
    classes=("FluxTransformer2DModel",),
    markers=("double_blocks.0.img_mod.lin.weight", "single_transformer_blocks.0.norm.linear.weight"),
)

ARCHITECTURES = (
    FLUX1,
    Policy(
        "flux2",
        "FLUX.2",
        blocks=("transformer_blocks", "single_transformer_blocks", "double_blocks", "single_blocks"),
        classes=("Flux2Transformer2DModel",),
        markers=("single_stream_modulation.lin.weight", "single_stream_modulation.linear.weight"),
    ),
    Policy(
        "sd3",
        "Stable Diffusion 3 and 3.5",
        blocks=("transformer_blocks", "joint_blocks"),
        classes=("SD3Transformer2DModel",),
        # FLUX.1 has the second, too; it is asked for first.
        markers=(
            "joint_blocks.0.x_block.adaLN_modulation.1.weight",
            "transformer_blocks.0.norm1_context.linear.weight",
        ),
    ),
    Policy(
        "qwen-image",
        "Qwen-Image",
        blocks=("transformer_blocks",),
        classes=("QwenImageTransformer2DModel",),
        markers=("transformer_blocks.0.img_mod.1.weight",),
    ),
    Policy(
        "z-image",
        "Z-Image",
        blocks=("layers", "noise_refiner", "context_refiner", "siglip_refiner"),
        classes=("ZImageTransformer2DModel",),
        markers=("layers.0.adaLN_modulation.0.weight",),
    ),
    Policy(
        "wan",
        "Wan",
        blocks=("blocks", "vace_blocks"),
        classes=("WanTransformer3DModel", "WanVACETransformer3DModel", "WanModel", "VaceWanModel"),
        markers=("condition_embedder.time_proj.weight", "head.modulation"),
    ),
    Policy(
        "gpt2",
        "GPT-2 and its like",
        classes=("gpt2", "openai-gpt", "imagegpt", "decision_transformer"),
        dense="stored as [in, out], and a row has to be an output (SPEC S-2.4)",
    ),
)

POLICIES = {policy.name: policy for policy in (*ARCHITECTURES, GENERAL)}
"""By the name that ``--policy`` takes."""


def find_policy(config: Mapping[str, Any] | None, names: Collection[str]) -> Policy:
    """The policy for a checkpoint.

    Args:
        config: the model's ``config.json``, if there is one; it decides where it names a known class.
        names: the checkpoint's tensors.
    """
    config = config or {}
    architectures = config.get("architectures")
    stated = {config.get("_class_name"), config.get("model_type")}
    stated.update(architectures if isinstance(architectures, list) else ())
    for policy in ARCHITECTURES:
        if not stated.isdisjoint(policy.classes):
            return policy
    for policy in ARCHITECTURES:
        if any(marker in names or COMFYUI_PREFIX + marker in names for marker in policy.markers):
            return policy
    return GENERAL
