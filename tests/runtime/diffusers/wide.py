"""A FLUX.1 checkpoint of one double and one single block under BFL's names, as wide as the real one.

diffusers' converters have the width 3072 built in; and such a model shows what loading costs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ternfmt import LowRank, Plane, TernaryTensor

WIDTH = 3072
CONFIG = {
    "_class_name": "FluxTransformer2DModel",
    "patch_size": 1,
    "in_channels": 8,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "guidance_embeds": True,
}
LINEARS = {
    "double_blocks.0.img_mod.lin": (6 * WIDTH, WIDTH),
    "double_blocks.0.txt_mod.lin": (6 * WIDTH, WIDTH),
    "double_blocks.0.img_attn.qkv": (3 * WIDTH, WIDTH),
    "double_blocks.0.txt_attn.qkv": (3 * WIDTH, WIDTH),
    "double_blocks.0.img_attn.proj": (WIDTH, WIDTH),
    "double_blocks.0.txt_attn.proj": (WIDTH, WIDTH),
    "double_blocks.0.img_mlp.0": (4 * WIDTH, WIDTH),
    "double_blocks.0.txt_mlp.0": (4 * WIDTH, WIDTH),
    "double_blocks.0.img_mlp.2": (WIDTH, 4 * WIDTH),
    "double_blocks.0.txt_mlp.2": (WIDTH, 4 * WIDTH),
    "single_blocks.0.modulation.lin": (3 * WIDTH, WIDTH),
    "single_blocks.0.linear1": (7 * WIDTH, WIDTH),
    "single_blocks.0.linear2": (WIDTH, 5 * WIDTH),
    "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
}
DENSE = {
    "time_in.in_layer": (WIDTH, 256),
    "time_in.out_layer": (WIDTH, WIDTH),
    "vector_in.in_layer": (WIDTH, 16),
    "vector_in.out_layer": (WIDTH, WIDTH),
    "guidance_in.in_layer": (WIDTH, 256),
    "guidance_in.out_layer": (WIDTH, WIDTH),
    "txt_in": (WIDTH, 16),
    "img_in": (WIDTH, 8),
    "final_layer.linear": (8, WIDTH),
}
NORMS = [
    *(f"double_blocks.0.{s}_attn.norm.{q}_norm.scale" for s in ("img", "txt") for q in ("query", "key")),
    *(f"single_blocks.0.norm.{q}_norm.scale" for q in ("query", "key")),
]
VALID_BYTES = np.array([b for b in range(256) if all((b >> s) & 3 != 2 for s in (0, 2, 4, 6))], dtype=np.uint8)


def make_ternary(rng: np.random.Generator, shape: tuple[int, int], rank: int = 0) -> TernaryTensor:
    n, k = shape
    plane = Plane(VALID_BYTES[rng.integers(0, len(VALID_BYTES), (n, k // 4))], (rng.random(n) / k).astype(np.float16))
    low_rank = None
    if rank:
        low_rank = LowRank(*(rng.standard_normal(s).astype(np.float16) for s in ((rank, k), (n, rank))))
    return TernaryTensor(shape, (plane,), None, low_rank)


def make_tensors() -> dict[str, Any]:
    """Every tensor of the checkpoint: random codes, and a low-rank term on one fused projection."""
    rng = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    for name, shape in LINEARS.items():
        rank = 2 if name.endswith("img_attn.qkv") else 0
        tensors[f"{name}.weight"] = make_ternary(rng, shape, rank)
        tensors[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    for name, shape in DENSE.items():
        tensors[f"{name}.weight"] = rng.standard_normal(shape, dtype=np.float32) / 50
        tensors[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    for name in NORMS:
        tensors[name] = rng.standard_normal(128).astype(np.float32)
    return tensors


def bfl_control_lora() -> dict[str, torch.Tensor]:
    """Rank 2 under BFL's names; diffusers' converter wants it for all of FLUX.1-dev's 19 and 38 blocks."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (n, k) in {**LINEARS, **DENSE, "img_in": (WIDTH, 16)}.items():
        kind, _, rest = name.partition(".0.")
        count = {"double_blocks": 19, "single_blocks": 38}.get(kind, 1)
        for i in range(count):
            block = f"{kind}.{i}.{rest}" if count > 1 else name
            state[f"{block}.lora_A.weight"] = torch.randn(2, k, generator=generator) / 50
            state[f"{block}.lora_B.weight"] = torch.randn(n, 2, generator=generator) / 50
    for norm in NORMS:
        for i in range(19 if norm.startswith("double") else 38):
            state[norm.replace(".0.", f".{i}.")] = torch.ones(128)
    return state
