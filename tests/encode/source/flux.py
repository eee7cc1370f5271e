"""FLUX.1 checkpoints of any depth and width, under BFL's names or diffusers'."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ternfmt.encode.source.flux_names import rename
from ternfmt.encode.source.policy import COMFYUI_PREFIX
from ternfmt.encode.source.recipe import Recipe, read, row_count


class Arrays:
    """A source in memory."""

    def __init__(self, tensors: Mapping[str, np.ndarray]) -> None:
        self.tensors = tensors

    def read(self, name: str, start: int, stop: int) -> np.ndarray:
        return self.tensors[name][start:stop].copy()

    @property
    def spans(self) -> dict[str, Recipe]:
        return {name: Recipe(tensor.shape, "F32", ()) for name, tensor in self.tensors.items()}

    @property
    def prefixed(self) -> Arrays:
        return Arrays({COMFYUI_PREFIX + name: value for name, value in self.tensors.items()})

    def renamed(self, naming: str) -> Arrays:
        recipes = rename(self.spans, naming)
        made = {name: read(recipe, self, 0, row_count(recipe.shape)) for name, recipe in recipes.items()}
        for name, recipe in recipes.items():
            assert made[name].shape == recipe.shape
        return Arrays(made)


def bfl_checkpoint(double: int, single: int, head: int, mlp: int, *, guidance: bool, seed: int = 0) -> Arrays:
    """A whole checkpoint of width ``2 * head`` under BFL's names."""
    width = 2 * head
    linears = {
        "img_in": (width, 12),
        "txt_in": (width, 10),
        "time_in.in_layer": (width, 8),
        "time_in.out_layer": (width, width),
        "vector_in.in_layer": (width, 6),
        "vector_in.out_layer": (width, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (4, width),
    }
    if guidance:
        linears |= {"guidance_in.in_layer": (width, 8), "guidance_in.out_layer": (width, width)}
    norms = []
    for i in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{i}.{stream}"
            linears |= {
                f"{block}_mod.lin": (6 * width, width),
                f"{block}_attn.qkv": (3 * width, width),
                f"{block}_attn.proj": (width, width),
                f"{block}_mlp.0": (mlp, width),
                f"{block}_mlp.2": (width, mlp),
            }
            norms += [f"{block}_attn.norm.{x}_norm.scale" for x in ("query", "key")]
    for i in range(single):
        block = f"single_blocks.{i}"
        linears |= {
            f"{block}.modulation.lin": (3 * width, width),
            f"{block}.linear1": (3 * width + mlp, width),
            f"{block}.linear2": (width, width + mlp),
        }
        norms += [f"{block}.norm.{x}_norm.scale" for x in ("query", "key")]
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in linears.items():
        tensors[f"{name}.weight"] = rng.standard_normal(shape, dtype=np.float32)
        tensors[f"{name}.bias"] = rng.standard_normal(shape[0], dtype=np.float32)
    for name in norms:
        tensors[name] = rng.standard_normal(head, dtype=np.float32)
    return Arrays(tensors)
