"""The two namings of FLUX.1 checkpoints: Black Forest Labs' own code (also ComfyUI's), and diffusers'.

One tensor of BFL holds the rows of one or several tensors of diffusers: q, k and v, and in single blocks the first
layer of the MLP with them. The two halves of the last modulation (shift and scale) are in opposite order.
Sizes are read off the shapes, so any depth and width will do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .policy import COMFYUI_PREFIX
from .recipe import Part, Recipe, Shaped, identity

NAMINGS = ("diffusers", "bfl")
"""What ``--names`` takes."""

_LINEARS = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "double_blocks.#.img_mod.lin": ("transformer_blocks.#.norm1.linear",),
    "double_blocks.#.txt_mod.lin": ("transformer_blocks.#.norm1_context.linear",),
    "double_blocks.#.img_attn.qkv": tuple(f"transformer_blocks.#.attn.to_{x}" for x in "qkv"),
    "double_blocks.#.txt_attn.qkv": tuple(f"transformer_blocks.#.attn.add_{x}_proj" for x in "qkv"),
    "double_blocks.#.img_attn.proj": ("transformer_blocks.#.attn.to_out.0",),
    "double_blocks.#.txt_attn.proj": ("transformer_blocks.#.attn.to_add_out",),
    "double_blocks.#.img_mlp.0": ("transformer_blocks.#.ff.net.0.proj",),
    "double_blocks.#.img_mlp.2": ("transformer_blocks.#.ff.net.2",),
    "double_blocks.#.txt_mlp.0": ("transformer_blocks.#.ff_context.net.0.proj",),
    "double_blocks.#.txt_mlp.2": ("transformer_blocks.#.ff_context.net.2",),
    "single_blocks.#.modulation.lin": ("single_transformer_blocks.#.norm.linear",),
    "single_blocks.#.linear1": (
        *(f"single_transformer_blocks.#.attn.to_{x}" for x in "qkv"),
        "single_transformer_blocks.#.proj_mlp",
    ),
    "single_blocks.#.linear2": ("single_transformer_blocks.#.proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
    "final_layer.linear": ("proj_out",),
}
"""Linears of BFL and those of diffusers that hold their rows, in order; each has a weight and a bias."""

_NORMS = {
    "double_blocks.#.img_attn.norm.query_norm.scale": "transformer_blocks.#.attn.norm_q.weight",
    "double_blocks.#.img_attn.norm.key_norm.scale": "transformer_blocks.#.attn.norm_k.weight",
    "double_blocks.#.txt_attn.norm.query_norm.scale": "transformer_blocks.#.attn.norm_added_q.weight",
    "double_blocks.#.txt_attn.norm.key_norm.scale": "transformer_blocks.#.attn.norm_added_k.weight",
    "single_blocks.#.norm.query_norm.scale": "single_transformer_blocks.#.attn.norm_q.weight",
    "single_blocks.#.norm.key_norm.scale": "single_transformer_blocks.#.attn.norm_k.weight",
}

_BLOCK_NUMBER = re.compile(r"(?<=blocks\.)\d+(?=\.)")
_SWAPPED = "final_layer.adaLN_modulation.1."


class _Pair(NamedTuple):
    """A tensor of BFL and those of diffusers that hold its rows, in order; ``#`` stands for the block's number."""

    bfl: str
    diffusers: tuple[str, ...]

    def numbered(self, number: str) -> _Pair:
        """The pair of one block."""
        return _Pair(self.bfl.replace("#", number), tuple(name.replace("#", number) for name in self.diffusers))


_PAIRS = (
    *(
        _Pair(f"{bfl}.{kind}", tuple(f"{name}.{kind}" for name in diffusers))
        for bfl, diffusers in _LINEARS.items()
        for kind in ("weight", "bias")
    ),
    *(_Pair(bfl, (diffusers,)) for bfl, diffusers in _NORMS.items()),
)
_KNOWN = {
    "bfl": {pair.bfl: pair for pair in _PAIRS},
    "diffusers": {name: pair for pair in _PAIRS for name in pair.diffusers},
}
"""Naming -> name with ``#`` -> its pair."""


def rename(tensors: Mapping[str, Shaped], naming: str) -> dict[str, Recipe]:
    """Recipes of a FLUX.1 checkpoint under the names that are asked for.

    Args:
        tensors: the source's, under either naming, with or without ComfyUI's prefix.
        naming: ``"diffusers"`` or ``"bfl"``. Where it is the source's own, only the prefix is taken away.

    Raises:
        ValueError: the source holds a tensor that the other naming has no name for, or lacks one that is to be joined
            with others, or rows do not divide.
    """
    plain = {name.removeprefix(COMFYUI_PREFIX): name for name in tensors}
    patterns = {name: _BLOCK_NUMBER.sub("#", name) for name in plain}
    own = max(NAMINGS, key=lambda known: sum(pattern in _KNOWN[known] for pattern in patterns.values()))
    unknown = [plain[name] for name, pattern in patterns.items() if pattern not in _KNOWN[own]]
    if unknown:
        raise ValueError(
            f"--names {naming}: {len(unknown)} of {len(plain)} tensors are not FLUX.1's: {_listed(unknown)}; "
            "without --names every tensor keeps its name"
        )
    if own == naming:
        return {name: identity(original, tensors[original]) for name, original in plain.items()}
    pairs: dict[_Pair, None] = {}  # those of diffusers that are joined lead to one pair
    for name, pattern in patterns.items():
        number = _BLOCK_NUMBER.search(name)
        pairs[_KNOWN[own][pattern].numbered(number[0] if number else "")] = None
    checkpoint = _Checkpoint(tensors, plain)
    make = checkpoint.split if naming == "diffusers" else checkpoint.join
    return {name: recipe for pair in pairs for name, recipe in make(pair).items()}


class _Checkpoint(NamedTuple):
    """The source: its tensors, and name without prefix -> name."""

    tensors: Mapping[str, Shaped]
    plain: Mapping[str, str]

    def split(self, pair: _Pair) -> dict[str, Recipe]:
        """From BFL's tensor to those of diffusers."""
        name = self.plain[pair.bfl]
        tensor = self.tensors[name]
        recipes = {}
        start = 0
        for target, size in zip(pair.diffusers, self._sizes(pair), strict=True):
            recipes[target] = Recipe(
                (size, *tensor.shape[1:]), tensor.dtype, _in_order(pair, (Part(name, start, start + size),))
            )
            start += size
        return recipes

    def join(self, pair: _Pair) -> dict[str, Recipe]:
        """From tensors of diffusers to BFL's."""
        missing = [name for name in pair.diffusers if name not in self.plain]
        if missing:
            raise ValueError(
                f"--names bfl: {pair.bfl!r} is made of {_listed(pair.diffusers)}; {_listed(missing)} is missing"
            )
        names = [self.plain[name] for name in pair.diffusers]
        dtype, columns = self.tensors[names[0]].dtype, self.tensors[names[0]].shape[1:]
        for name in names:
            tensor = self.tensors[name]
            if (tensor.dtype, tensor.shape[1:]) != (dtype, columns):
                raise ValueError(
                    f"--names bfl: {name!r} is {tensor.dtype} {list(tensor.shape)}; to be joined with {names[0]!r} "
                    f"it would have to be {dtype} {[tensor.shape[0], *columns]}"
                )
        parts = tuple(Part(name, 0, self.tensors[name].shape[0]) for name in names)
        rows = sum(part.stop for part in parts)
        return {pair.bfl: Recipe((rows, *columns), dtype, _in_order(pair, parts))}

    def _sizes(self, pair: _Pair) -> list[int]:
        """Rows of BFL's tensor that belong to each tensor of diffusers."""
        rows = self.tensors[self.plain[pair.bfl]].shape[0]
        count = len(pair.diffusers)
        sizes = [rows // count] * count
        if count == 4:  # q, k and v are as wide as the model, which is the width of the weight; the rest is the MLP's
            weight = self.plain.get(f"{pair.bfl.rpartition('.')[0]}.weight")
            width = self.tensors[weight].shape[-1] if weight is not None else 0
            sizes = [width, width, width, rows - 3 * width]
        if sum(sizes) != rows or min(sizes) < 1:
            raise ValueError(
                f"--names diffusers: {self.plain[pair.bfl]!r} has {rows} rows, which do not divide into "
                f"{_listed(pair.diffusers)}"
            )
        return sizes


def _in_order(pair: _Pair, parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts, of which the one of the last modulation is cut into halves that change places."""
    if not pair.bfl.startswith(_SWAPPED):
        return parts
    ((name, _, rows),) = parts
    if rows % 2:
        raise ValueError(f"{name!r} has {rows} rows, which do not divide into two halves")
    return Part(name, rows // 2, rows), Part(name, 0, rows // 2)


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(map(repr, names[:5]))
    return f"{text} and {len(names) - 5} more" if len(names) > 5 else text
