"""What distilling FLUX.1-dev would take, from its shapes alone: ``python -m ternfmt.encode.distilled.flux_plan``.

The model is made on torch's meta device, which has shapes and no values, so that this runs anywhere. Nobody has run
the result: memory is the code's own accounting, and time is operations over an assumed share of the sheet's peak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..data.model import LoadedModel, make_loaded
from ..settings import LayerSettings
from .accounting import HEADROOM, Memory, count_activations, count_flops, inventory, seconds
from .settings import DistilledSettings

UTILISATION = 0.4
"""Assumed share of the peak: what training large transformers usually reaches (Chowdhery et al. 2022, 2204.02311)."""

TEXT_TOKENS = 512


@dataclass(frozen=True)
class Gpu:
    """A device: bytes, and bf16 operations a second with F32 sums, dense, by its sheet."""

    name: str
    memory: int
    flops_per_second: float


GPUS = (Gpu("24 GB (RTX 4090)", 24 << 30, 165e12), Gpu("80 GB (H100 SXM)", 80 << 30, 989e12))


@dataclass(frozen=True)
class Way:
    """A way to train it, memory with one sample in a forward pass, and hours by device."""

    name: str
    settings: DistilledSettings
    memory: Memory
    hours: dict[str, float]


def flux(size: int = 512, **config: Any) -> tuple[LoadedModel, dict[str, Any]]:
    """FLUX.1-dev's transformer without values, and a call of one picture of ``size`` pixels."""
    from diffusers import FluxTransformer2DModel

    with torch.device("meta"):
        model = FluxTransformer2DModel(guidance_embeds=True, **config)
    ternary = [name for name, p in model.named_parameters() if p.ndim == 2 and "transformer_blocks." in name]
    tokens = (size // 16) ** 2

    def empty(*shape: int) -> Tensor:
        return torch.empty(*shape, device="meta", dtype=torch.bfloat16)

    call = {
        "hidden_states": empty(1, tokens, model.config.in_channels),
        "encoder_hidden_states": empty(1, TEXT_TOKENS, model.config.joint_attention_dim),
        "pooled_projections": empty(1, model.config.pooled_projection_dim),
        "timestep": empty(1),
        "guidance": empty(1),
        "img_ids": empty(tokens, 3),
        "txt_ids": empty(TEXT_TOKENS, 3),
        "return_dict": False,
    }
    return make_loaded(model.to(torch.bfloat16), ternary), call


def ways(loaded: LoadedModel, call: dict[str, Any], settings: DistilledSettings) -> list[Way]:
    """End to end with codes, with frozen codes and a low-rank branch, and block by block."""
    layers = {name: LayerSettings("distilled") for name in loaded.linears}
    dtypes = {name: "BF16" for name in loaded.names.values() if name not in layers}
    flops = count_flops(lambda: loaded.model(**call))
    loaded.model.requires_grad_(True)
    kept = count_activations(lambda: loaded.model(**call), [b.module for b in loaded.blocks], loaded.model.parameters())
    whole = replace(settings, recompute=True)
    frozen = replace(whole, train_codes=False, train_dense="biases")
    ranked = {name: replace(layer, low_rank=64) for name, layer in layers.items()}
    found = []
    for name, told, ternary in (("end to end", whole, layers), ("frozen codes, rank 64", frozen, ranked)):
        # Quantised weights of a block are made again with its activations, as bf16.
        extra = 2 * max(_weights(block.linears.values()) for block in loaded.blocks)
        parts = inventory(loaded, ternary, told, dtypes)
        memory = parts.memory(told, teacher_bytes=2, activations=kept.recomputed + (extra if told.train_codes else 0))
        found.append(Way(name, told, memory, _hours(flops, parts.optimizer_flops(told), told)))
    found.append(_block_by_block(loaded, layers, dtypes, settings, kept.whole, flops))
    return found


def table(found: Sequence[Way]) -> str:
    """The ways as Markdown."""
    head = ["", "teacher", "student", "gradients", "optimizer", "workspace", "activations", "total"]
    head += [f"{gpu.name}: fits" for gpu in GPUS] + [f"{gpu.name}: hours" for gpu in GPUS]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for way in found:
        m = way.memory
        sizes = (m.teacher, m.student, m.gradients, m.optimizer, m.workspace, m.activations, m.total)
        cells = [way.name, *(f"{size / 1e9:.1f}" for size in sizes)]
        cells += ["yes" if m.total <= HEADROOM * gpu.memory else "no" for gpu in GPUS]
        cells += [f"{way.hours[gpu.name]:.0f}" for gpu in GPUS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _block_by_block(
    loaded: LoadedModel,
    layers: dict[str, LayerSettings],
    dtypes: dict[str, str],
    settings: DistilledSettings,
    kept: int,
    flops: int,
) -> Way:
    """The largest block, while the model lies in the host's memory."""
    largest = max(loaded.blocks, key=lambda block: _weights(block.linears.values()))
    inside = {name: layers[name] for name in largest.linears}
    share = _weights(largest.linears.values()) / _weights(loaded.linears.values())
    memory = inventory(loaded.alone(largest), inside, settings, dtypes).memory(
        settings, teacher_bytes=0, activations=int(kept * share)
    )
    # `steps` of each block: together as many operations as so many steps of the whole, without a teacher beside.
    optimizer = inventory(loaded, layers, settings, dtypes).optimizer_flops(settings)
    return Way("block by block", settings, memory, _hours(flops, optimizer, settings, teacher_too=False))


def _hours(
    flops: int, optimizer_flops: int, settings: DistilledSettings, *, teacher_too: bool = True
) -> dict[str, float]:
    return {
        gpu.name: seconds(
            flops,
            optimizer_flops,
            settings,
            flops_per_second=gpu.flops_per_second,
            utilisation=UTILISATION,
            teacher_too=teacher_too,
        )
        / 3600
        for gpu in GPUS
    }


def _weights(linears: Any) -> int:
    return sum(linear.weight.numel() for linear in linears)


def main() -> None:
    """Print the table for 6,000 steps of 8 pictures of 512 x 512 pixels, one in a forward pass."""
    settings = DistilledSettings(steps=6000, batch=8, micro_batch=1)
    loaded, call = flux()
    print(table(ways(loaded, call, settings)))


if __name__ == "__main__":
    main()
